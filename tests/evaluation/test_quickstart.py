"""The quickstart from end to end on a handful of clips, and the timing that it shows."""

import sys
from pathlib import Path

import pytest
import torch
from helpers.commands import TINY
from helpers.tiny import one_layer_model

from stgt import cli
from stgt.cli import quickstart
from stgt.config import LossConfig
from stgt.data.shapes import render_shapes
from stgt.paper.timing import compare_attention
from stgt.recipes import RECIPES


def test_quickstart_trains_evaluates_compares_and_draws(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(quickstart, "shapes", lambda out: render_shapes(out, train=8, test=6, size=32, frames=6))
    monkeypatch.setattr(sys, "argv", ["stgt", "quickstart", "--out", "runs/here", *TINY, "--epochs", "1"])
    cli.main()
    printed = capsys.readouterr().out
    assert "simulated" in printed and "the right one of 6 simulated clips" in printed
    assert "bikes.mp4: 4 frames" in printed and "stgt search --run runs/here" in printed
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


def test_recipes_are_those_of_the_paper():
    runs = {name: recipe() for name, recipe in RECIPES.items()}
    assert [(name, run.optim.lr, run.epochs, run.loss.stage) for name, run in runs.items() if name != "quickstart"] == [
        ("pretrain_stage1", 5e-5, 12, 1),
        ("pretrain_stage2", 2.5e-5, 6, 2),
        ("finetune_msrvtt", 2.5e-5, 9, 2),
        ("finetune_didemo", 2.5e-5, 9, 2),
        ("finetune_lsmdc", 2.5e-5, 9, 2),
        ("finetune_msvd", 2.5e-5, 12, 2),
        ("finetune_msrvtt_qa", 3e-5, 9, 1),
        ("finetune_msvd_qa", 3e-5, 9, 1),
        ("vqa_shapes", 1e-3, 2, 1),
    ]
    lengths = {name: run.model.qformer.max_text_length for name, run in runs.items() if name.startswith("finetune")}
    retrieval = {name: length for name, length in lengths.items() if not name.endswith("_qa")}
    assert retrieval == {"finetune_msrvtt": 36, "finetune_didemo": 55, "finetune_lsmdc": 32, "finetune_msvd": 32}
    for name, run in runs.items():
        assert run.optim.betas == (0.9, 0.98) and run.optim.weight_decay == 0.05 and run.data.frames == 8
        assert run.batch_size == (32 if name in ("quickstart", "vqa_shapes") else 20)
        assert (run.model.language is not None) == ("qa" in name)


def test_each_call_of_a_recipe_is_its_own():
    first = RECIPES["quickstart"]()
    first.optim.lr = 1.0
    assert RECIPES["quickstart"]().optim.lr != pytest.approx(1.0)
