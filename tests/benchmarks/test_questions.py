"""Every question runs at a tiny size, and every claim finds its rows."""

import gc
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from helpers.benchmark_rows import ABOUT, bench, one_call_each
from helpers.called import called

from benchmarks import claims, models, parts
from benchmarks.inputs import Problem
from benchmarks.questions import QUESTIONS, decoding, edge_attention, layers, module
from benchmarks.questions.training_step import DENSE, KERNELS, RELEASED, Training
from benchmarks.rows import Row
from stgt.config import ModelConfig, QFormerConfig, VisionConfig
from stgt.models.bert import Bert
from stgt.recipes import quickstart
from stgt_kernels.ops.linear import functional as linear_functional

TINY = Problem(T=2, P=16, C=32, H=2, D=8)


def tiny_config(size="tiny", open_blocks=0):
    vision = VisionConfig(
        tower="vit", image_size=32, patch_size=8, width=32, layers=1, heads=2, dtype="float32", open_blocks=open_blocks
    )
    qformer = QFormerConfig(
        hidden=16, layers=1, heads=2, intermediate=32, queries=2, embed_dim=8, vocab_size=20, bos_token_id=19
    )
    return ModelConfig(vision, replace(quickstart().model.graph, heads=2), qformer)


@pytest.mark.parametrize("question", QUESTIONS)
def test_every_question_gives_rows(question, monkeypatch):
    asked = module(question)
    monkeypatch.setattr(gc, "collect", lambda: 0)  # it would take a quarter of a second for each case
    for name, small in (("base", lambda device, quick: TINY), ("model_config", tiny_config)):
        if hasattr(asked, name):
            monkeypatch.setattr(asked, name, small)
    cases = asked.cases("cpu", True)
    number = QUESTIONS.index(question) + 1
    assert asked.__doc__.startswith(f"{number}. ") and len({case.name for case in cases}) == len(cases)
    for case in cases:
        rows = case.run(question, bench(quick=True))
        assert {(row.question, row.case) for row in rows} == {(question, case.name)}
        assert len({row.provider for row in rows}) == len(rows)
        assert any(row.median for row in rows) and all((row.median is None) == bool(row.missing) for row in rows)
        assert any("stgt" in row.provider and row.median for row in rows)


@pytest.mark.parametrize("question", ["graph_layer", "inference", "training_step"])
def test_the_released_model_calls_none_of_our_kernels(question, monkeypatch):
    monkeypatch.setattr(linear_functional, "LEAST_WORK", 0)
    asked, names = module(question), {}
    monkeypatch.setattr(asked, "model_config", tiny_config)

    def measure(functions, seconds):
        for name, function in functions.items():
            names[name] = {found for found in called(function) if found.startswith("stgt_kernels::")}
        return one_call_each(functions, seconds)

    for case in asked.cases("cpu", True):
        case.run(question, replace(bench(quick=True), measure=measure))
    ours = next(found for provider, found in names.items() if "stgt_kernels" in provider)
    assert names["released model"] == set()
    expected = ("spatio_temporal_graph_fwd", "graph_attention_fwd", "dense_attention_fwd", "linear_fwd")
    assert ours >= {f"stgt_kernels::{name}" for name in expected}


def possible_rows(device):
    """One row for each possible provider and each case of the full suite."""
    kinds = ["eager dense", "compiled dense", "FlexAttention", "FlexAttention, banded weights", "stgt_kernels"]
    kinds += [
        decoding.OURS,
        decoding.DECORD,
        decoding.CLIP,
        decoding.FILM,
        edge_attention.CONV,
        edge_attention.SDPA,
        edge_attention.BANDED,
        layers.PYTORCH,
        "released model",
        "released graph attention alone",
    ]
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
    outputs = [training.output(variant, batch) for variant in (KERNELS, DENSE, RELEASED)]
    for embeds, loss in outputs[1:]:
        torch.testing.assert_close(embeds, outputs[0][0], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(loss, outputs[0][1], rtol=1e-4, atol=1e-5)
    block = training.model.graph.blocks[0]
    with training.using(RELEASED, texts=2):
        assert isinstance(block.graph_attention, models.ReleasedAttention)
        assert not any(getattr(m, "fused_attn", False) for m in training.model.modules())
        assert isinstance(training.model.qformer.bert, models.ReleasedBert)
        theirs = {p.data_ptr() for p in training.model.qformer.bert.parameters()}
    assert theirs == {p.data_ptr() for p in training.model.qformer.bert.parameters()}
    assert isinstance(training.model.qformer.bert, Bert)
    assert not isinstance(block.graph_attention, models.ReleasedAttention) and "build_graph" not in vars(block)
    assert any(getattr(m, "fused_attn", False) for m in training.model.modules())


def test_only_the_released_model_computes_on_padding(training):
    batch = models.make_batch(tiny_config(), 4, 2, False, training.device)
    lengths = batch["attention_mask"].sum(1)
    assert lengths.tolist() == [7, 10, 12, 15] and batch["input_ids"].shape == (4, 32)
    rows = []
    training.model.qformer.word_head.dense.register_forward_hook(lambda module, given, result: rows.append(len(result)))
    embedded = training.model.qformer.embeddings.word_embeddings
    embedded.register_forward_hook(lambda module, given, result: rows.append(result.shape[1]))
    for variant in (KERNELS, RELEASED):
        training.output(variant, batch)
    # Our first pass embeds two rows of words for each text, and the released model has a pass for each of them.
    assert rows == [2, int(lengths.sum()) - 4, 15, 32, 32, 4 * 31, 32]


def test_a_step_does_all_the_work_and_does_not_change_the_weights(training):
    before = {name: p.clone() for name, p in training.model.named_parameters()}
    for variant in (KERNELS, RELEASED):
        training.step(variant, models.make_batch(tiny_config(), 2, 2, False, training.device))
        assert all(torch.equal(p, before[name]) for name, p in training.model.named_parameters())
        trained = [p for p in training.model.parameters() if p.requires_grad]
        state = training.optimizers[variant.rest].state
        assert len(state) == len([p for p in trained if p in state]) > 20


def operations(event):
    """The number of operations within an event of the profiler. It replaces the event's time, so no clock matters."""
    return 1 + sum(operations(child) for child in event.cpu_children)


@pytest.fixture
def recorded(training):
    """A function that returns the profiler's events of one training step."""
    batch = models.make_batch(tiny_config(), 2, 2, False, training.device)
    training.run(KERNELS, batch)  # The first step also creates the optimizer's state.
    return lambda: parts.recorded(
        lambda: training.run(KERNELS, batch), training.model, training.optimizers[False], training.device
    )


def test_the_parts_of_a_step_cover_all_of_its_operations(training, recorded):
    events = recorded()
    counts = parts.times(events, operations)
    assert counts.keys() == set(parts.PARTS) and all(count > 0 for count in counts.values())
    outside = [event for event in events if event.cpu_parent is None and event.name not in parts.PARTS]
    outside = [event.name for event in outside if not event.name.startswith(parts.BACKWARD)]
    # aten::ones_like makes the gradient of the loss.
    assert sorted(outside) == ["Optimizer.zero_grad#AdamW.zero_grad", "aten::ones_like"]
    whole = sum(operations(event) for event in events if event.cpu_parent is None and event.name not in outside)
    assert sum(counts.values()) == whole
    # The sums of the weights' gradients are the only operations that belong to the forward pass of no part.
    sums = [event for event in events if event.name == parts.BACKWARD + "torch::autograd::AccumulateGrad"]
    assert counts[parts.OTHER] == sum(map(operations, sums))
    assert "forward" not in vars(training.model) and "forward" not in vars(training.model.graph)


def test_the_shares_of_a_step_add_up_to_one(training):
    batch = models.make_batch(tiny_config(), 2, 2, False, training.device)
    shares = parts.shares(
        lambda: training.run(KERNELS, batch), training.model, training.optimizers[False], training.device
    )
    assert shares.keys() == set(parts.PARTS) and sum(shares.values()) == pytest.approx(1.0)


def test_backward_operations_belong_to_the_part_of_their_forward_operation(training, recorded):
    """If the backward pass of one part runs more operations, the count of this part alone grows by their number."""

    class Busy(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, dx):
            for _ in range(20):
                dx = dx.neg().neg()
            return dx

    attention = training.model.graph.blocks[0].graph_attention
    forward, counts = attention.forward, []
    for function in (lambda x: Busy.apply(Busy.apply(x)), Busy.apply):  # first with two Busy functions, then with one
        attention.forward = lambda *args, function=function: function(forward(*args))
        events = recorded()
        nodes = [operations(event) for event in events if event.name == parts.BACKWARD + "BusyBackward"]
        applied = [operations(event) for event in events if event.name == "Busy"]
        counts.append((parts.times(events, operations), nodes, applied))
    (two, nodes, applied), (one, (node,), (forth,)) = counts
    assert nodes == [node] * 2 and applied == [forth] * 2 and node > 40
    assert {part: two[part] - one[part] for part in parts.PARTS if two[part] != one[part]} == {
        parts.ATTENTION: node + forth
    }


def test_the_largest_batch_is_found_by_halving(training, monkeypatch):
    batch = models.make_batch(tiny_config(), 20, 2, False, training.device)
    tried = []

    def run(variant, batch):
        tried.append(len(batch["input_ids"]))
        if tried[-1] > 4:
            raise MemoryError

    monkeypatch.setattr(training, "run", run)
    count, memory = training.largest_batch(KERNELS, batch)
    assert count == 2 and tried == [20, 10, 5, 2] and memory is not None


def test_real_tokens_replace_those_of_a_random_tower(training):
    config = tiny_config()
    tokens = training.model.visual_tokens(models.make_batch(config, 2, 3, False, training.device)["video"])
    cached = models.make_batch(config, 2, 3, True, training.device)["tokens"]
    assert torch.equal(tokens, cached) and not tokens.requires_grad
    open_tower = models.make_model(tiny_config(open_blocks=-1), training.device, cached=False)
    assert not isinstance(open_tower.vision, models.RealTokens)


def test_the_time_of_a_part_on_a_gpu_is_the_time_of_its_kernels():
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
