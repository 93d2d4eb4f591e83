"""The validation after each epoch chooses the checkpoint and changes nothing else."""

import os
import random
import re
import signal

import numpy as np
import pytest
import torch
from helpers import standin
from helpers.commands import run_cli, train_questions, train_retrieval

from stgt import checkpoint as ckpt
from stgt import files
from stgt.data.annotations import load_captions, load_questions, save_captions, save_questions
from stgt.data.shapes import render_shapes
from stgt.evaluation.metrics import ranks
from stgt.runs import load_run
from stgt.signals import StoppedError, until_stopped
from stgt.training.log import read_log


class Given:
    """A validation whose figures are given in advance."""

    choose_by = "mean"

    def __init__(self, *values):
        self.values, self.models = list(values), []

    def __call__(self, model, stop):
        self.models.append({name: tensor.clone() for name, tensor in model.state_dict().items()})
        return {"mean": self.values.pop(0), "R@1": 0.0}


def run(out, validation, **fields):
    config = standin.config(out, **{"epochs": 4, "keep": 1, "save_every": 3} | fields)
    trainer = standin.trainer(config)
    trainer.validation = validation
    return trainer


def test_the_best_checkpoint_stays_and_is_the_one_that_is_used(tmp_path):
    validation = Given(20.0, 35.0, 35.0, 10.0)
    run(tmp_path, validation).fit()
    assert [path.name for path in ckpt.checkpoints(tmp_path)] == ["step-00000010", "step-00000020"]
    chosen = ckpt.chosen_checkpoint(tmp_path)
    assert chosen.name == "step-00000010"
    kept = ckpt.read_tensors(chosen, "model")
    assert all(torch.equal(kept[name], validation.models[1][name]) for name in kept)
    assert ckpt.read_state(chosen)["best"] == {"step": 10, "epoch": 1, "chosen_by": "mean", "value": 35.0}
    figures = [(record["step"], record["val"]["mean"]) for record in read_log(tmp_path) if "val" in record]
    assert figures == [(5, 20.0), (10, 35.0), (15, 35.0), (20, 10.0)]


def test_a_run_whose_last_step_ends_within_an_epoch_is_measured_after_it(tmp_path):
    run(tmp_path, Given(20.0, 21.0, 22.0, 23.0), accumulate=3).fit()  # 6 steps of 3 batches, 5 batches in each epoch
    assert [record["step"] for record in read_log(tmp_path) if "val" in record] == [2, 4, 5, 6]


def test_a_run_goes_back_to_an_older_checkpoint_whose_best_one_is_still_there(tmp_path):
    run(tmp_path, Given(20.0, 10.0, 5.0, 40.0), keep=2).fit()  # the steps 18 and 20 are kept, and 20 is the best
    files.remove_folder(ckpt.latest_checkpoint(tmp_path))
    assert ckpt.latest_checkpoint(tmp_path).name == "step-00000018"
    assert ckpt.chosen_checkpoint(tmp_path).name == "step-00000005"
    run(tmp_path, Given(15.0), keep=2).fit()
    assert ckpt.chosen_checkpoint(tmp_path).name == "step-00000005"


def test_without_validation_the_last_checkpoint_is_used(tmp_path):
    run(tmp_path, None).fit()
    assert ckpt.chosen_checkpoint(tmp_path) == ckpt.latest_checkpoint(tmp_path)
    assert not [record for record in read_log(tmp_path) if "val" in record]


def test_a_stopped_run_remembers_its_best_checkpoint(tmp_path):
    class Stopping(Given):
        def __call__(self, model, stop):
            if len(self.models) == 2:
                raise StoppedError(15, "stopped")
            return super().__call__(model, stop)

    trainer = run(tmp_path, Stopping(20.0, 35.0))
    with pytest.raises(StoppedError):
        trainer.fit()
    run(tmp_path, Given(30.0, 31.0)).fit()
    assert ckpt.chosen_checkpoint(tmp_path).name == "step-00000010"
    assert [record["val"]["mean"] for record in read_log(tmp_path) if "val" in record] == [20.0, 35.0, 30.0, 31.0]


class Interrupting(Given):
    """Sends a signal during the validation with the number `during`."""

    def __init__(self, *values, during):
        super().__init__(*values)
        self.during = during

    def __call__(self, model, stop):
        for number in until_stopped(range(2), stop):
            if number == 0 and len(self.models) == self.during:
                os.kill(os.getpid(), signal.SIGTERM)
        return super().__call__(model, stop)


@pytest.mark.parametrize("during", [1, 3])
def test_a_validation_that_a_signal_cut_short_is_repeated(during, tmp_path):
    figures = [20.0, 35.0, 30.0, 40.0]
    run(tmp_path / "whole", Given(*figures)).fit()
    stopped = Interrupting(*figures, during=during)
    with pytest.raises(StoppedError) as caught:
        run(tmp_path / "stopped", stopped).fit()
    assert caught.value.signum == signal.SIGTERM and len(stopped.models) == during
    last = ckpt.latest_checkpoint(tmp_path / "stopped")
    assert (
        ckpt.read_state(last)["step"] == 5 * (during + 1) and ckpt.read_state(last)["best"]["value"] < figures[during]
    )
    rest = Given(*stopped.values)
    run(tmp_path / "stopped", rest).fit()
    assert len(rest.models) == 4 - during
    one, other = (ckpt.chosen_checkpoint(tmp_path / name) for name in ("whole", "stopped"))
    assert one.name == other.name
    for group in ("model", "optimizer", "random"):
        expected, found = ckpt.read_tensors(one, group), ckpt.read_tensors(other, group)
        assert all(torch.equal(found[name], expected[name]) for name in expected)
    states = [ckpt.read_state(ckpt.latest_checkpoint(tmp_path / name)) for name in ("whole", "stopped")]
    assert states[0]["best"] == states[1]["best"] and states[1]["unmeasured"] is None
    measured = [[r["val"]["mean"] for r in read_log(tmp_path / name) if "val" in r] for name in ("whole", "stopped")]
    assert measured == [figures, figures]


def test_a_repeated_validation_that_is_killed_before_it_is_kept_is_logged_once(tmp_path, monkeypatch):
    figures = [20.0, 35.0, 30.0, 40.0]
    with pytest.raises(StoppedError):
        run(tmp_path, Interrupting(*figures, during=1)).fit()

    def die(*_, **__):
        raise MemoryError("none left")

    with monkeypatch.context() as patch, pytest.raises(MemoryError):
        patch.setattr(ckpt, "update_state", die)
        run(tmp_path, Given(*figures[1:])).fit()
    run(tmp_path, Given(*figures[1:])).fit()
    assert [record["val"]["mean"] for record in read_log(tmp_path) if "val" in record] == figures


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    folder = render_shapes(tmp_path_factory.mktemp("data") / "shapes", train=18, test=4, size=32, frames=6)
    pairs, questions = load_captions(folder / "train.json"), load_questions(folder / "qa_train.json")
    held = {pair.video for pair in pairs[:6]}
    shared = pairs[1]._replace(captions=(pairs[0].captions[0].upper() + "!",))  # the same words as the first caption
    save_captions([pairs[0], shared, *pairs[2:6]], folder / "val.json")
    save_captions(pairs[6:], folder / "train.json")
    save_questions([q for q in questions if q.video in held], folder / "qa_val.json")
    save_questions([q for q in questions if q.video not in held], folder / "qa_train.json")
    return folder


def weights(out, step):
    return ckpt.read_tensors(out / "checkpoints" / f"step-{step:08d}", "model")


def test_a_run_logs_recall_and_ends_with_the_same_weights_as_without(clips, tmp_path, monkeypatch):
    more = ["--keep", 9, "--data.workers", 0]
    assert run_cli(monkeypatch, *train_retrieval(clips, tmp_path / "plain", *more)) == 0
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    validated = [*more, "--data.val", clips / "val.json"]
    assert run_cli(monkeypatch, *train_retrieval(clips, tmp_path / "val", *validated)) == 0
    one, other = weights(tmp_path / "plain", 6), weights(tmp_path / "val", 6)
    assert all(torch.equal(one[name], other[name]) for name in one)
    records = [record for record in read_log(tmp_path / "val") if "val" in record]
    assert [record["step"] for record in records] == [3, 6]

    best = load_run(tmp_path / "val", "cpu")
    state = ckpt.read_state(best.checkpoint)["best"]
    data = best.config.data
    data.test = clips / "val.json"
    split = best.test_items(data)
    with torch.no_grad():
        queries = best.model.encode_video(torch.stack([split[i]["video"] for i in range(6)])).queries
        ids, mask = best.tokenizer.encode([caption for _, caption in split.captions], 24)
        similarity = best.model.similarity(queries, best.model.encode_text(ids, mask))
    right = torch.eye(6, dtype=torch.bool)
    right[0, 1] = right[1, 0] = True
    rank = ranks(similarity.T, right)
    figures = next(record["val"] for record in records if record["step"] == state["step"])
    assert figures["MeanR"] == rank.double().mean() and figures["R@5"] == 100 * (rank <= 5).double().mean()
    assert figures["mean"] == state["value"] == max(record["val"]["mean"] for record in records)


def test_a_question_run_logs_accuracy(clips, tmp_path, monkeypatch):
    words = train_questions(clips, tmp_path / "run", "--data.val", clips / "qa_val.json", "--epochs", 1)
    assert run_cli(monkeypatch, *words) == 0
    (record,) = [record for record in read_log(tmp_path / "run") if "val" in record]
    assert 0 <= record["val"]["accuracy"] <= 100
    state = ckpt.read_state(ckpt.chosen_checkpoint(tmp_path / "run"))
    assert state["best"]["chosen_by"] == "accuracy" and state["step"] == record["step"]


@pytest.mark.parametrize(
    "val, message",
    [
        ("gone.json", "gone.json: no such file"),
        ("train.json", r"data.val: train_\d+.mp4 is in .*train.json and in"),
        ("val.json", "val.json: in entry 0 there is no 'caption'"),
    ],
)
def test_an_unusable_validation_split_is_named_before_the_run(clips, tmp_path, monkeypatch, capsys, val, message):
    (tmp_path / "train.json").write_text((clips / "train.json").read_text())
    (tmp_path / "val.json").write_text('[{"video": "test_00000.mp4"}]')
    assert run_cli(monkeypatch, *train_retrieval(clips, tmp_path / "run", "--data.val", tmp_path / val)) == 2
    assert re.search(message, capsys.readouterr().err) and not (tmp_path / "run").exists()


def test_the_training_annotation_is_no_validation_split(clips, tmp_path, monkeypatch, capsys):
    assert run_cli(monkeypatch, *train_retrieval(clips, tmp_path / "run", "--data.val", clips / "train.json")) == 2
    assert "train.json, which is data.train as well, expected another annotation" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
