"""A model card shows figures only if they are those of this model on the test data of its run."""

import json
import re
import shutil

import pytest

from stgt import hub
from stgt.evaluation.options import Evaluation
from stgt.evaluation.run import evaluate
from stgt.runs import open_run


@pytest.fixture(scope="module")
def measured(run, tmp_path_factory):
    """A copy of the run with its evaluation."""
    folder = shutil.copytree(run, tmp_path_factory.mktemp("measured") / "run")
    evaluate(Evaluation(folder, device="cpu"))
    return folder


def card(folder, out):
    hub.write_folder(open_run(folder, "cpu"), out, "somebody/shapes")
    return (out / "README.md").read_text()


def test_the_card_names_the_annotation_of_its_figures(measured, tmp_path):
    text = card(measured, tmp_path / "model")
    assert "Measured on `test.json`, 11 videos and 11 captions, in percent:" in text
    assert text.count("| text to video |") == 2


@pytest.mark.parametrize(
    ("options", "cause"),
    [
        (dict(annotation="train.json"), "the annotation is .*train.json, here .*test.json"),
        (dict(threshold=0.9), "threshold is 0.9, here 0.5"),
        (dict(rerank="logit"), "rerank is logit, here odds"),
        (dict(k_test=3), "k_test is 3, here 11"),
        (dict(k_test=0), "k_test is 0, here 11"),
    ],
)
def test_figures_with_other_options_are_left_out(options, cause, measured, clips, tmp_path, caplog):
    folder = shutil.copytree(measured, tmp_path / "run")
    if "annotation" in options:
        options = options | {"annotation": clips / options["annotation"]}
    evaluate(Evaluation(folder, device="cpu", **options))
    assert "Results" not in card(folder, tmp_path / "model")
    assert re.search(cause, caplog.text)


def test_figures_of_another_checkpoint_are_left_out(measured, tmp_path, caplog):
    folder = shutil.copytree(measured, tmp_path / "run")
    path = folder / "evaluation.json"
    result = json.loads(path.read_text())
    path.write_text(json.dumps(result | {"checkpoint": "runs/tiny/checkpoints/step-00000001"}))
    assert "Results" not in card(folder, tmp_path / "model")
    assert "the checkpoint is step-00000001, here step-" in caplog.text
