"""The quickstart runs from end to end on a few clips, and its timing changes nothing."""

from pathlib import Path

import torch
from helpers.commands import TINY, run_cli
from helpers.tiny import one_layer_model

from stgt.cli import quickstart
from stgt.config import LossConfig
from stgt.data.shapes import render_shapes
from stgt.paper.timing import compare_attention

VALIDATION = ("--data.val", "data/shapes/test.json")
"""With it, the last record of the log is that of a validation."""


def test_quickstart_trains_evaluates_compares_and_draws(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(quickstart, "shapes", lambda out: render_shapes(out, train=8, test=6, size=32, frames=6))
    assert run_cli(monkeypatch, "quickstart", "--out", "runs/here", *TINY, "--epochs", "1", *VALIDATION) == 0
    printed = capsys.readouterr().out
    assert "simulated" in printed and "of 6 simulated clips, the right one for a sentence was found" in printed
    assert "bikes.mp4: 4 frames" in printed and "stgt search --model runs/here" in printed
    for name in ("edges.png", "search.png", "evaluation.json", "log.jsonl", "features"):
        assert (Path("runs/here") / name).exists()


def test_timing_leaves_the_model_and_its_settings_alone():
    model = one_layer_model()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    batch = {
        "video": torch.randn(3, 4, 3, 32, 32),
        "input_ids": torch.randint(1, 19, (3, 6)),
        "attention_mask": torch.ones(3, 6, dtype=torch.long),
    }
    comparison = compare_attention(model, batch, LossConfig(), rounds=3)
    assert comparison.dense > 0 and comparison.kernels > 0 and comparison.ratio > 0
    assert model.config.graph.attention == "kernels" and not model.training
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
