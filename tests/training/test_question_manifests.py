"""Question answering trains from a manifest, goes on and is evaluated with the bits of its annotation in JSON."""

import json
import shutil

import pytest
from helpers.commands import run_cli, train_questions
from helpers.runs import differing

from stgt import checkpoint as ckpt
from stgt.data.annotations import load_questions, save_questions

pa = pytest.importorskip("pyarrow", reason="pip install pyarrow")
pq = pytest.importorskip("pyarrow.parquet", reason="pip install pyarrow")


@pytest.fixture(scope="module")
def data(clips, tmp_path_factory):
    """Questions in JSON in the order of their videos, as a manifest has them, and the same in shards."""
    folder = tmp_path_factory.mktemp("data")
    with pytest.MonkeyPatch.context() as patch:
        for split in ("qa_train", "qa_test"):
            questions = load_questions(clips / f"{split}.json")
            videos = list(dict.fromkeys(question.video for question in questions))
            save_questions(sorted(questions, key=lambda each: videos.index(each.video)), folder / f"{split}.json")
            words = ("--videos", clips / "videos", "--out", folder / "packed", "--shard-size", "20KB")
            assert run_cli(patch, "data", "pack", folder / f"{split}.json", *words) == 0
            rows = pq.read_table(folder / "packed" / f"{split}.parquet")  # questions do not need their captions
            numbers = pa.array(range(len(rows)))
            pq.write_table(rows.append_column("caption", numbers), folder / "packed" / f"{split}.parquet")
    return folder


def train(patch, clips, data, out, kind, *more):
    places = {"json": (data, clips / "videos"), "parquet": (data / "packed", data / "packed")}
    annotations, videos = places[kind]
    splits = ["--data.train", annotations / f"qa_train.{kind}", "--data.test", annotations / f"qa_test.{kind}"]
    validated = ["--data.val", annotations / f"qa_test.{kind}", "--data.videos", videos, "--data.workers", 0]
    return run_cli(patch, *train_questions(clips, out, *splits, *validated, *more))


@pytest.fixture(scope="module")
def runs(clips, data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        for kind in ("json", "parquet"):
            assert train(patch, clips, data, folder / kind, kind) == 0
    return folder


def test_runs_and_their_validation_have_the_same_bits(runs):
    assert differing(runs / "json", runs / "parquet") == []
    ours, theirs = (ckpt.read_state(ckpt.latest_checkpoint(runs / kind))["best"] for kind in ("json", "parquet"))
    assert ours == theirs and ours["chosen_by"] == "accuracy"


def test_a_run_goes_on_within_an_epoch_with_the_same_bits(runs, clips, data, tmp_path, monkeypatch):
    again = shutil.copytree(runs / "parquet", tmp_path / "run")
    before, last = ckpt.checkpoints(again)[-2:]
    steps = ckpt.read_state(last)["step"]  # of two epochs
    assert ckpt.read_state(before)["step"] not in (0, steps // 2, steps)
    shutil.rmtree(last)
    assert train(monkeypatch, clips, data, again, "parquet", "--data.workers", 1) == 0
    assert differing(runs / "parquet", again) == []


def test_the_evaluation_answers_the_same_questions(runs, monkeypatch):
    answers = []
    for kind in ("json", "parquet"):
        assert run_cli(monkeypatch, "evaluate", "--run", runs / kind, "--beams", 1) == 0
        answers.append(json.loads((runs / kind / "answers.json").read_text()))
        result = json.loads((runs / kind / "evaluation.json").read_text())
        answers.append((result["answers"], result["baselines"], result["split"]["questions"]))
    assert answers[:2] == answers[2:]


def test_questions_train_from_cached_tokens_of_their_shards(runs, clips, data, tmp_path, monkeypatch):
    found = []
    for kind in ("json", "parquet"):
        more = ("--data.sampling", "uniform", "--epochs", 1, "--vtc-epochs", 0)
        words = train_questions(clips, tmp_path / "unused", *more)
        places = {"json": (data, clips / "videos"), "parquet": (data / "packed", data / "packed")}[kind]
        splits = ["--data.train", places[0] / f"qa_train.{kind}", "--data.val", places[0] / f"qa_test.{kind}"]
        command = ["data", "features", "--out", tmp_path / f"{kind}.tokens", *words[1:], *splits]
        assert run_cli(monkeypatch, *command, "--data.videos", places[1]) == 0
        tokens = ("--data.features", tmp_path / f"{kind}.tokens")
        assert train(monkeypatch, clips, data, tmp_path / kind, kind, *more, *tokens) == 0
        found.append(tmp_path / kind)
    assert differing(*found) == []
