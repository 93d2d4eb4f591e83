"""The command line: what a command loads, how it names a model, and options without effect."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.commands import run_cli

import stgt
from stgt import runs
from stgt.data.text import Tokenizer

ROOT = Path(__file__).parents[1]
LOADED = """
import sys
from stgt import __main__
sys.argv = ["stgt", *sys.argv[1:]]
try:
    __main__.main()
except SystemExit:
    pass
print(*(name for name in sys.modules if name.startswith(("stgt.training", "torch.utils.tensorboard"))))
"""


@pytest.mark.parametrize("words", [["search", "a dog"], ["ask", "a.mp4", "what?"], ["evaluate"], ["caption", "a.mp4"]])
def test_commands_that_use_a_model_do_not_load_the_trainer(words, tmp_path):
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    command = [sys.executable, "-c", LOADED, *words, "--model", str(tmp_path / "run"), "--device", "cpu"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=500)
    assert "no checkpoint in it" in done.stderr  # The command came as far as the model.
    assert done.stdout.strip() == ""


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["caption", "a.mp4", "--count", 3], "--count is given, expected it with --top-p only"),
        (["caption", "a.mp4", "--seed", 3], "--seed is given, expected it with --top-p only"),
        (["caption", "a.mp4", "--top-p", 0.9, "--beams", 2], "--beams is given, expected it without --top-p only"),
        (["caption", "a.mp4", "--top-p", 0.9, "--seed", 10**22], f"--seed is {10**22}, expected at least 0 and below"),
        (["caption", "a.mp4", "--top-p", 0.9, "--seed", -1], "--seed is -1, expected at least 0 and below 2**63"),
        (["caption", "a.mp4", "--beams", 0], "--beams is 0, expected at least 1"),
        (["ask", "a.mp4", ""], "the question is '', expected one with a word in it"),
        (["ask", "a.mp4", " (!) "], "the question is ' (!) ', expected one with a word in it"),
        (["ask", "a.mp4", "what?", "--beams", 0], "--beams is 0, expected at least 1"),
        (["search", "a dog", "--captions", "a.txt"], "--captions is given, expected it with --video only"),
        (["search", "--video", "a.mp4", "--videos", "b"], "--videos is given, expected it with a sentence only"),
        (["search", "--video", "a.mp4", "--figure", "b"], "--figure is given, expected it with a sentence only"),
        (["search", "a dog", "--top", 0], "--top is 0, expected at least 1"),
        (["search"], "expected a sentence or --video FILE, got neither"),
        (["visualize", "a.mp4", "--out", "a.png", "--examples", 1], "--examples is given, expected it with a folder"),
    ],
)
def test_options_without_effect_are_refused(words, message, monkeypatch, capsys, tmp_path):
    assert run_cli(monkeypatch, *words, "--model", tmp_path) == 2
    assert message in capsys.readouterr().err


def test_a_seed_that_no_generator_takes_is_refused_by_convert(monkeypatch, capsys, tmp_path):
    words = [tmp_path / "a.pth", "--out", tmp_path / "b", "--fresh", "x", "--seed", -1]
    assert run_cli(monkeypatch, "convert", *words) == 2
    assert "--seed is -1, expected at least 0 and below 2**63" in capsys.readouterr().err


def test_a_model_is_a_folder_or_a_name_on_the_hub(monkeypatch, tmp_path):
    assert runs.find_model(tmp_path) == (tmp_path, tmp_path)
    monkeypatch.setattr(runs, "download", lambda name: tmp_path / name)
    assert runs.find_model("somebody/stgt") == (tmp_path / "somebody/stgt", Path("runs/somebody--stgt"))


@pytest.mark.parametrize("name", ["gone", "a/b/c", "here/gone", "/gone", "~/gone"])
def test_a_folder_that_is_not_there_is_not_looked_for_on_the_hub(name, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    monkeypatch.setattr(runs, "download", lambda name: pytest.fail("the hub was asked"))
    with pytest.raises(ValueError, match=f"{name}: no such folder, expected that of a run"):
        runs.find_model(name)


def test_a_file_of_weights_is_refused_with_the_command_that_makes_a_folder_of_it(monkeypatch, capsys, tmp_path):
    (tmp_path / "released.pth").touch()
    assert run_cli(monkeypatch, "evaluate", "--model", tmp_path / "released.pth") == 2
    assert f"`stgt convert {tmp_path / 'released.pth'} --out FOLDER` makes one" in capsys.readouterr().err


def test_a_relative_path_that_leads_nowhere_is_named_with_the_present_folder(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert run_cli(monkeypatch, "data", "check", "train.json") == 2
    assert f"train.json: no such file in {tmp_path}\n" in capsys.readouterr().err
    assert run_cli(monkeypatch, "data", "check", tmp_path / "train.json") == 2
    assert capsys.readouterr().err.endswith("train.json: no such file\n")


def test_a_tilde_is_the_home_folder_also_where_no_shell_replaces_it(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    assert run_cli(monkeypatch, "data", "check", "--out=~/bad.json", "~/train.json") == 2
    assert f"{tmp_path / 'home' / 'train.json'}: no such file" in capsys.readouterr().err
    assert run_cli(monkeypatch, "data", "shapes", "--out=~/shapes", "--train", 1, "--test", 1, "--frames", 2) == 0
    assert (tmp_path / "home" / "shapes" / "train.json").is_file()
    assert stgt.Index("~/films.index", "model").path == tmp_path / "home" / "films.index"
    (tmp_path / "home" / "run").mkdir()
    assert runs.find_model("~/run") == (tmp_path / "home" / "run",) * 2
    Tokenizer.train(["a red square grows"], 40).save(tmp_path / "home" / "words")
    assert Tokenizer.from_pretrained("~/words").encode(["a red square"], 8)[1].any()
    assert not (tmp_path / "~").exists()


@pytest.mark.parametrize(
    "words",
    [
        ["train", "quickstart", "--out", ""],
        ["train", "quickstart", "--init", ""],
        ["train", "--config", ""],
        ["data", "features", "--out", "", "quickstart"],
        ["data", "check", ""],
        ["index", "", "--out", "x.index"],
        ["index", "videos", "--out", ""],
        ["serve", ""],
        ["ask", "", "what?", "--model", "run"],
    ],
)
def test_an_empty_path_is_not_the_present_folder(words, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    assert run_cli(monkeypatch, *words) == 2
    assert "''" in capsys.readouterr().err and not any(tmp_path.iterdir())


def test_an_empty_path_in_a_saved_configuration_is_refused(monkeypatch, capsys, tmp_path):
    (tmp_path / "config.json").write_text('{"out": ""}')
    assert run_cli(monkeypatch, "train", "--config", tmp_path / "config.json") == 2
    assert "TrainConfig.out is '', expected a path" in capsys.readouterr().err
