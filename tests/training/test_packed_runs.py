"""A run from shards has the bits of a run from files, also after it has lost steps, and notices changed shards."""

import json
import shutil

import pytest
from helpers.commands import run_cli, train_retrieval
from helpers.runs import differing

from stgt import checkpoint as ckpt

pd = pytest.importorskip("pandas", reason="pip install pandas pyarrow")


@pytest.fixture(scope="module")
def packed(clips, tmp_path_factory):
    """The simulated clips in shards: the training clips with their manifest, and the test clips."""
    folder = tmp_path_factory.mktemp("packed")
    with pytest.MonkeyPatch.context() as patch:
        for split in ("train", "test"):
            words = ("--videos", clips / "videos", "--out", folder / split, "--shard-size", "20KB")
            assert run_cli(patch, "data", "pack", clips / f"{split}.json", *words) == 0
    return folder


def train(patch, clips, out, *more):
    return run_cli(patch, *train_retrieval(clips, out, "--data.workers", 0, *more))


def from_shards(packed, split="train"):
    return ["--data.train", packed / split / f"{split}.parquet", "--data.videos", packed / split]


@pytest.fixture(scope="module")
def from_files(clips, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "files"
    with pytest.MonkeyPatch.context() as patch:
        assert train(patch, clips, out) == 0
    return out


@pytest.fixture(scope="module")
def run(clips, packed, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "shards"
    with pytest.MonkeyPatch.context() as patch:
        assert train(patch, clips, out, *from_shards(packed), "--data.workers", 1) == 0
    return out


def test_a_run_from_shards_ends_with_the_same_bits_as_a_run_from_files(run, from_files):
    assert differing(run, from_files) == []


def test_a_run_from_shards_that_lost_its_last_steps_ends_with_the_same_bits(run, packed, clips, tmp_path, monkeypatch):
    again = shutil.copytree(run, tmp_path / "run")
    before, last = ckpt.checkpoints(again)[-2:]
    shutil.rmtree(last)
    assert ckpt.read_state(before)["step"] == 3  # within the second epoch, which has the steps 3 and 4
    assert train(monkeypatch, clips, again, *from_shards(packed)) == 0
    assert differing(run, again) == []


@pytest.mark.parametrize("change", ["shard", "manifest"])
def test_changed_shards_and_manifests_are_noticed(change, run, packed, clips, tmp_path, monkeypatch, capsys):
    data = shutil.copytree(packed, tmp_path / "packed")
    again = shutil.copytree(run, tmp_path / "run")
    name = "train.parquet"
    if change == "shard":
        name = "train-000000.tar"
        with open(data / "train" / name, "ab") as shard:
            shard.write(b"more")
    else:
        frame = pd.read_parquet(data / "train" / name)
        frame["captions"] = [["other"]] * len(frame)
        frame.to_parquet(data / "train" / name)
    (data / "train").rename(tmp_path / "moved")
    shutil.copytree(tmp_path / "moved", data / "train")
    config = again / "config.json"
    config.write_text(config.read_text().replace(str(packed), str(data)))
    assert train(monkeypatch, clips, again, *from_shards(data)) == 2
    printed = capsys.readouterr().err
    assert "was started with other data" in printed
    assert ("train-000000.tar: " in printed) if change == "shard" else ("data.train: SHA-256" in printed)


def test_a_manifest_validates_and_is_evaluated_as_its_annotation(packed, clips, tmp_path, monkeypatch, capsys):
    joined(packed)
    data = ["--data.train", packed / "train.parquet", "--data.videos", packed, "--epochs", 1, "--vtc-epochs", 0]
    assert train(monkeypatch, clips, tmp_path / "run", *data, "--data.val", packed / "both.parquet") == 2
    assert "both.parquet and in" in capsys.readouterr().err  # the two share the training clips
    assert train(monkeypatch, clips, tmp_path / "run", *data, "--data.val", packed / "test.parquet") == 0
    results = []
    for annotation, videos in ((clips / "test.json", clips / "videos"), (packed / "test.parquet", packed)):
        out = tmp_path / "evaluation.json"
        words = ("--annotation", annotation, "--videos", videos, "--out", out, "--features", tmp_path / "features")
        assert run_cli(monkeypatch, "evaluate", "--model", tmp_path / "run", *words) == 0
        results.append(json.loads(out.read_text()))
        for key in ("annotation", "sha256"):
            del results[-1]["split"][key]
    assert results[0] == results[1] and results[0]["split"]["videos"] == 11


def joined(packed):
    """Writes manifests whose shards are relative to the folder above, and one with the clips of both splits."""
    frames = []
    for split in ("train", "test"):
        frame = pd.read_parquet(packed / split / f"{split}.parquet")
        frames.append(frame.assign(shard=split + "/" + frame["shard"]))
        frames[-1].to_parquet(packed / f"{split}.parquet")
    pd.concat(frames).to_parquet(packed / "both.parquet")
