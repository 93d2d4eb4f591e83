"""Every question runs, at a size that means nothing, and every claim finds the rows that it is about."""

import gc
from types import SimpleNamespace

import pytest
import torch
from samples import ABOUT, bench

from benchmarks import claims, models, parts
from benchmarks.inputs import Problem
from benchmarks.questions import QUESTIONS, module
from benchmarks.questions.training_step import DENSE, KERNELS, RELEASED, Training
from benchmarks.rows import Row
from stgt.config import GraphConfig, ModelConfig, QFormerConfig, VisionConfig

TINY = Problem(T=2, P=16, C=32, H=2, D=8)


def tiny_config(size="tiny", open_blocks=0):
    vision = VisionConfig(
        tower="vit", image_size=32, patch_size=8, width=32, layers=1, heads=2, dtype="float32", open_blocks=open_blocks
    )
    qformer = QFormerConfig(
        hidden=16, layers=1, heads=2, intermediate=32, queries=2, embed_dim=8, vocab_size=20, bos_token_id=19
    )
    return ModelConfig(vision, GraphConfig(heads=2), qformer)


@pytest.mark.parametrize("question", QUESTIONS)
def test_every_question_has_an_answer(question, monkeypatch):
    asked = module(question)
    monkeypatch.setattr(gc, "collect", lambda: 0)  # a quarter of a second for each of the cases
    for name, small in (("base", lambda device, quick: TINY), ("model_config", tiny_config)):
        if hasattr(asked, name):
            monkeypatch.setattr(asked, name, small)
    cases = asked.cases("cpu", True)
    assert asked.__doc__[0] == str(QUESTIONS.index(question) + 1)[0] and len({case.name for case in cases}) == len(
        cases
    )
    for case in cases:
        rows = case.run(question, bench(quick=True))
        assert {(row.question, row.case) for row in rows} == {(question, case.name)}
        assert len({row.provider for row in rows}) == len(rows)
        assert any(row.median for row in rows) and all((row.median is None) == bool(row.missing) for row in rows)
        assert any("stgt_kernels" in row.provider and row.median for row in rows)


def possible_rows(device):
    """A row for each provider there might be, of each case of the full suite."""
    kinds = ["eager dense", "compiled dense", "FlexAttention", "FlexAttention, banded weights", "stgt_kernels"]
    kinds += ["released model", "released graph attention, fused tower"]
    kinds += [f"stgt_kernels {backend}{T}" for backend in ("cpu", "triton", "cuda") for T in ("", ", T=8", ", T=64")]
    fields = dict(median=1.0, tflops=2.0, peak_memory=2**30, details={"clips/s": 3.0})
    return [
        Row(kind, "fp32", {}, question=question, case=case.name, **fields)
        for question in QUESTIONS
        for case in module(question).cases(device, False)
        for kind in kinds
    ]


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_every_claim_is_about_rows_that_the_full_suite_has(device):
    about = ABOUT if device == "cpu" else {k: v for k, v in ABOUT.items() if k != "threads"}
    rows = possible_rows(device)
    table = claims.claims_table(rows, about)
    assert len(table.splitlines()) == 2 + len(claims.claims(about)) >= 10
    assert claims.claims_table([], about) == ""


def test_a_claim_says_whether_it_is_met():
    claim = claims.faster("attention_forward", Problem(), "ours", "theirs", at_least=2)
    case = dict(question="attention_forward", case=str(Problem()))
    rows = [Row("ours", "fp32", {}, median=1.0, **case), Row("theirs", "fp32", {}, median=1.5, **case)]
    value = claim.value(claims.Found(rows, ABOUT))
    assert value == 1.5 and claim.line(value)[-3:] == ["1.5", ">= 2", "NO"] and claim.line(2.0)[-1] == "yes"


@pytest.fixture
def training():
    device = torch.device("cpu")
    return Training(models.make_model(tiny_config(), device, cached=False), 2, "fp32", device)


def test_variants_of_a_model_compute_the_same_and_leave_it_as_it_was(training):
    batch = models.make_batch(tiny_config(), 2, 2, False, training.device)
    kernels, dense, released = (training.output(variant, batch) for variant in (KERNELS, DENSE, RELEASED))
    assert torch.allclose(kernels, dense, atol=1e-5) and torch.allclose(dense, released, atol=1e-5)
    block = training.model.graph.blocks[0]
    with training.using(RELEASED):
        assert isinstance(block.graph_attention, models.ReleasedAttention)
        assert not any(getattr(m, "fused_attn", False) for m in training.model.modules())
    assert not isinstance(block.graph_attention, models.ReleasedAttention) and "build_graph" not in vars(block)
    assert any(getattr(m, "fused_attn", False) for m in training.model.modules())


def test_a_step_does_all_the_work_and_leaves_the_weights(training):
    before = {name: p.clone() for name, p in training.model.named_parameters()}
    training.step(KERNELS, models.make_batch(tiny_config(), 2, 2, False, training.device))
    assert all(torch.equal(p, before[name]) for name, p in training.model.named_parameters())
    trained = [p for p in training.model.parameters() if p.requires_grad]
    assert len(training.optimizer.state) == len([p for p in trained if p in training.optimizer.state]) > 20


def test_parts_of_a_step_are_all_of_it(training):
    batch = models.make_batch(tiny_config(), 2, 2, False, training.device)
    model, optimizer, device = training.model, training.optimizer, training.device
    shares = parts.shares(lambda: training.run(batch), model, optimizer, device)
    assert sum(shares.values()) == pytest.approx(1.0) and all(share > 0 for share in shares.values())
    assert set(shares) >= set(parts.PARTS) - {parts.OTHER} and shares.get(parts.OTHER, 0.0) < 0.2
    assert "forward" not in vars(model) and "forward" not in vars(model.graph)


def test_what_runs_backward_belongs_to_its_forward_part(training):
    """Slow only one part's backward pass down: that part, and no other, takes most of the step."""

    class Slow(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, dx):
            return sum(torch.linalg.inv(torch.eye(300)).sum() for _ in range(20)) * 0 + dx

    batch = models.make_batch(tiny_config(), 2, 2, False, training.device)
    attention = training.model.graph.blocks[0].graph_attention
    forward = attention.forward
    attention.forward = lambda *args: Slow.apply(forward(*args))
    shares = parts.shares(lambda: training.run(batch), training.model, training.optimizer, training.device)
    assert shares[parts.ATTENTION] > 0.5


def test_the_largest_batch_is_found_by_halving(training, monkeypatch):
    batch = models.make_batch(tiny_config(), 20, 2, False, training.device)
    tried = []

    def run(batch):
        tried.append(len(batch["input_ids"]))
        if tried[-1] > 4:
            raise MemoryError

    monkeypatch.setattr(training, "run", run)
    assert training.largest_batch(KERNELS, batch) == 2 and tried == [20, 10, 5, 2]


def test_real_tokens_stand_in_for_a_random_towers(training):
    config = tiny_config()
    tokens = training.model.visual_tokens(models.make_batch(config, 2, 3, False, training.device)["video"])
    cached = models.make_batch(config, 2, 3, True, training.device)["tokens"]
    assert torch.equal(tokens, cached) and not tokens.requires_grad
    open_tower = models.make_model(tiny_config(open_blocks=-1), training.device, cached=False)
    assert not isinstance(open_tower.vision, models.RealTokens)


def test_on_a_gpu_a_parts_time_is_that_of_its_kernels():
    def event(name, *children, kernels=()):
        kernels = [SimpleNamespace(name=kernel, duration=duration) for kernel, duration in kernels]
        made = SimpleNamespace(name=name, sequence_nr=-1, cpu_parent=None, cpu_children=children, kernels=kernels)
        for child in children:
            child.cpu_parent = made
        return made

    product = event("aten::mm", event("launch", kernels=[("gemm", 5.0)]))
    inner = event(parts.ATTENTION, product, kernels=[(parts.ATTENTION, 100.0)])
    outer = event(parts.LAYER, inner, event("aten::add", kernels=[("add", 2.0)]), kernels=[(parts.LAYER, 100.0)])
    product.sequence_nr = 7
    backward = event(parts.BACKWARD + "MmBackward0", event("aten::mm", kernels=[("gemm", 10.0)]))
    backward.sequence_nr = 7
    assert parts.times([outer, inner, product, backward], parts.kernel_time) == {
        parts.ATTENTION: 15.0,
        parts.LAYER: 2.0,
    }
