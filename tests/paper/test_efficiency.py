"""The efficiency table counts and times the models that it names, and wrong arguments are refused."""

import json
import math
import resource
from pathlib import Path

import pytest
import torch
from helpers.commands import printed_text, run_cli

from stgt.cli.efficiency import efficiency
from stgt.models.stgt import STGT
from stgt.paper import table6
from stgt.paper.cost import count
from stgt.paper.flops import count_flops
from stgt.paper.sizes import model_config
from stgt.paper.table6 import BASELINE, DENSE, KERNELS, MODELS, time_models, variant
from stgt.paper.timing import in_turns, median_ratio
from stgt_kernels import RaggedGraph, edge_attention

CPU = torch.device("cpu")


@pytest.fixture
def little_memory():
    """Allows half a gigabyte more than now, which is a tenth of the memory of the whole model."""
    status = Path("/proc/self/status")
    if not status.exists():
        pytest.skip("only Linux says how much memory a process has")
    now = int(status.read_text().split("VmData:")[1].split()[0]) * 1024
    before = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (now + 2**29, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_DATA, before)


def test_the_paper_s_size_is_counted_without_its_memory(little_memory):
    config = model_config("ViT-g")
    kernels, dense, baseline = (count(variant(config, name)) for name in MODELS)
    assert kernels.module == dense.module == 59_531_648 and baseline.module == 59_545_728
    assert kernels.learnable == dense.learnable == 246_237_118
    assert kernels.parameters - kernels.learnable == baseline.parameters - baseline.learnable == 985_894_528
    # The window has 22 of 8·8 pairs of frames, and 15 if each pair counts once. Only their products differ.
    fewer = 256**2 * 1408 * (4 * (64 - 22) + 2 * (64 - 15))
    assert dense.flops - kernels.flops == dense.module_flops - kernels.module_flops == fewer
    assert dense.flops - dense.module_flops == baseline.flops - baseline.module_flops > 4e12


@pytest.mark.parametrize("name", MODELS)
def test_the_count_equals_that_of_a_real_run(name):
    config = variant(model_config("quickstart"), name)
    cost, model = count(config), STGT(config).eval().requires_grad_(False)
    assert cost.learnable == cost.parameters == sum(p.numel() for p in model.parameters())
    assert cost.module == sum(p.numel() for p in model.graph.parameters())
    with torch.no_grad():
        assert cost.flops == count_flops(lambda: model.encode_video(torch.randn(1, 8, 3, 64, 64)))


def test_attention_over_edges_is_counted():
    """Two products of E edges with H heads of D channels forward, and four more backward."""
    graph = RaggedGraph.from_edge_index(torch.randint(9, (2, 50)), 9)
    q = torch.randn(9, 3, 8, requires_grad=True)
    assert count_flops(lambda: edge_attention(q, q, q, graph).sum().backward()) == (4 + 8) * 50 * 3 * 8


@pytest.mark.parametrize("tower", [True, False])
def test_the_table_names_the_machine_and_the_models(tower, monkeypatch, capsys, tmp_path):
    asked = []
    encode = STGT.encode_video
    monkeypatch.setattr(
        STGT, "encode_video", lambda model, *a, **k: asked.append((model, *k)) or encode(model, *a, **k)
    )
    monkeypatch.setattr(table6, "count", lambda config: count(model_config("quickstart")))
    out = tmp_path / "new" / "efficiency.json"
    efficiency("quickstart", batch_size=2, rounds=2, tower=tower, device="cpu", out=out)
    result = json.loads(out.read_text())

    timed = result["timed"]["models"]
    assert timed.keys() == MODELS.keys() and timed[KERNELS]["ratio"] == 1
    for values in timed.values():
        assert all(math.isfinite(value) and value > 0 for value in values.values())
        assert values["clips_per_second"] * values["seconds"] == pytest.approx(1000)

    asked = [each for each in asked if each[1:]]  # the count passes the video as a positional argument
    models = [model for model, _ in asked]
    assert len(models) == 3 * 3 and models[:3] == models[3:6] == models[6:] and len(set(models)) == 3
    assert {kind for _, kind in asked} == {"video" if tower else "tokens"}
    assert [model.config.graph.attention for model in models[:3]] == ["kernels", "dense", "kernels"]
    assert models[2].config.graph.kind == "cross_frame" and len({model.vision for model in models}) == 1

    printed = capsys.readouterr().out
    for words in (
        KERNELS,
        DENSE,
        BASELINE,
        "60.4",
        "252",
        "276",
        "8 A100s",
        "batches of 2",
        "torch",
        result["timed"]["on"],
    ):
        assert words in printed
    assert ("pixels to embedding" in printed) is tower and ("tokens to embedding" in printed) is not tower


def test_every_pair_within_the_window_is_an_edge_while_timing(monkeypatch):
    seen = []
    encode = STGT.encode_video
    monkeypatch.setattr(STGT, "encode_video", lambda *a, **k: seen.append(encode(*a, **k)) or seen[-1])
    time_models(model_config("quickstart"), 1, 1, False, CPU)
    edges = [float(features.stats["edges_per_token"]) for features in seen[:2]]
    assert edges == [pytest.approx(22 * 64 / 8)] * 2 and seen[2].stats == {}


def test_functions_are_timed_in_turns():
    order = []
    times = in_turns({name: lambda name=name: order.append(name) for name in "ab"}, CPU, 3)
    assert order == list("ab" * 4) and [len(seconds) for seconds in times.values()] == [3, 3]
    assert median_ratio([2.0, 9.0, 4.0], [1.0, 1.0, 1.0]) == 4.0


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--batch-size", "0"], "--batch-size is 0, expected at least 1"),
        (["--rounds", "0"], "--rounds is 0, expected at least 1"),
        (["--size", "ViT-L"], "ViT-B"),
        (["--device", "abacus"], "device is 'abacus'"),
        (["--out", "."], "--out is ., a folder, expected a JSON file"),
    ],
)
def test_a_wrong_argument_is_reported_before_anything_is_timed(words, expected, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(table6, "count", lambda config: pytest.fail("it was counted"))
    assert run_cli(monkeypatch, "efficiency", *words) == 2
    assert expected in printed_text(capsys)
    assert list(tmp_path.iterdir()) == []
