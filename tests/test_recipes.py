"""Recipes have the paper's numbers, and recipes of other modules and files can be trained."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from helpers.commands import run_cli

from stgt.cli.train import take_recipe
from stgt.config import to_dict
from stgt.recipes import RECIPES

MODULE = """
from dataclasses import replace
from pathlib import Path
from stgt.recipes import quickstart

def mine():
    return replace(quickstart(), seed=7, out=Path("runs/mine"))

def number():
    return 3

def broken():
    return {}["key"]

def epochs():
    return replace(quickstart(), epochs=-1)

def options(epochs):
    return quickstart()
"""


@pytest.fixture
def trained(monkeypatch):
    """The configurations that `stgt train` was started with."""
    started = []
    monkeypatch.setattr("stgt.training.run.train", started.append)
    return started


@pytest.fixture
def own(tmp_path, monkeypatch):
    """Makes the present folder one that holds a module of recipes."""
    (tmp_path / "own_recipes.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))


def test_recipes_have_the_numbers_of_the_paper():
    runs = {name: recipe() for name, recipe in RECIPES.items()}
    assert [
        (name, run.optim.lr, run.epochs, run.loss.alignment) for name, run in runs.items() if name != "quickstart"
    ] == [
        ("pretrain_stage1", 5e-5, 12, "vtc"),
        ("pretrain_stage2", 2.5e-5, 6, "csal"),
        ("finetune_msrvtt", 2.5e-5, 9, "csal"),
        ("finetune_didemo", 2.5e-5, 9, "csal"),
        ("finetune_lsmdc", 2.5e-5, 9, "csal"),
        ("finetune_msvd", 2.5e-5, 12, "csal"),
        ("finetune_msrvtt_qa", 3e-5, 9, "vtc"),
        ("finetune_msvd_qa", 3e-5, 9, "vtc"),
        ("vqa_shapes", 1e-3, 2, "vtc"),
    ]
    lengths = {name: run.model.qformer.max_text_length for name, run in runs.items() if name.startswith("finetune")}
    retrieval = {name: length for name, length in lengths.items() if not name.endswith("_qa")}
    assert retrieval == {"finetune_msrvtt": 36, "finetune_didemo": 55, "finetune_lsmdc": 32, "finetune_msvd": 32}
    for name, run in runs.items():
        assert run.optim.betas == (0.9, 0.98) and run.optim.weight_decay == 0.05 and run.data.frames == 8
        assert run.batch_size == (32 if name in ("quickstart", "vqa_shapes") else 20)
        assert (run.model.language is not None) == ("qa" in name)


def test_only_the_recipes_of_simulated_clips_leave_the_numerics_of_the_released_model():
    for name, recipe in RECIPES.items():
        model = recipe().model
        simulated = name in ("quickstart", "vqa_shapes")
        assert model.graph.form == ("residual" if simulated else "released") and model.graph.motion == simulated
        assert model.qformer.rerank == ("odds" if simulated else "softmax")


def test_each_call_of_a_recipe_gives_a_new_configuration():
    first = RECIPES["quickstart"]()
    first.optim.lr = 1.0
    assert RECIPES["quickstart"]().optim.lr != pytest.approx(1.0)


def test_a_recipe_of_any_module_is_trained_with_options(own, trained, monkeypatch):
    assert run_cli(monkeypatch, "train", "own_recipes:mine", "--epochs", 3) == 0
    assert trained == [replace(RECIPES["quickstart"](), seed=7, out=Path("runs/mine"), epochs=3)]


def test_options_of_a_command_may_stand_before_its_recipe(own, monkeypatch):
    assert take_recipe(["data", "features", "--out", "a:b", "own_recipes:mine"]) == [
        "data",
        "features",
        "--out",
        "a:b",
        "mine",
    ]
    assert take_recipe(["search", "what:ever"]) == ["search", "what:ever"]


def test_a_saved_configuration_is_trained_again(tmp_path, trained, monkeypatch):
    saved = replace(RECIPES["quickstart"](), seed=5)
    (tmp_path / "config.json").write_text(json.dumps(to_dict(saved)))
    assert run_cli(monkeypatch, "train", "--config", tmp_path / "config.json", "--out", "runs/again") == 0
    assert list(map(to_dict, trained)) == [to_dict(replace(saved, out=Path("runs/again")))]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["own_recipes:gone"], "but own_recipes has no 'gone'"),
        (["own_recipes:number"], "returns int, expected a TrainConfig"),
        (["no_recipes:mine"], "there is no module 'no_recipes'"),
        (["own_recipes:broken"], "/own_recipes.py:13: KeyError: 'key'"),
        (["own_recipes:epochs"], "/own_recipes.py:16: ValueError: TrainConfig.epochs is -1"),
        (["own_recipes:options"], "own code failed: TypeError: options() missing 1 required"),
        (["bad_recipes:mine"], "/bad_recipes.py:2: AttributeError: module 'sys' has no"),
        (["odd_recipes:mine"], "own code failed: SyntaxError: invalid syntax (odd_recipes.py, line 1)"),
        (["sad_recipes:mine"], "/sad_recipes.py:1: ModuleNotFoundError: No module named 'g"),
        (["--config", "gone.json"], "gone.json: no such file"),
        (["--config=gone.json"], "gone.json: no such file"),
        (["--config", "bad.json"], "bad.json: TrainConfig.epochs is 'x', expected a whole number"),
    ],
)
def test_a_missing_or_broken_recipe_is_named(words, message, own, trained, monkeypatch, capsys):
    Path("bad.json").write_text('{"epochs": "x"}')
    Path("bad_recipes.py").write_text("import sys\nsys.gone\n")
    Path("odd_recipes.py").write_text("def mine(:\n")
    Path("sad_recipes.py").write_text("import gone.of_ours\n")
    assert run_cli(monkeypatch, "train", *words) == 2
    printed = capsys.readouterr().err
    assert message in printed and "fault of stgt" not in printed and not trained
