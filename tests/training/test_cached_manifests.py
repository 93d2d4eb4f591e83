"""Runs that read the frozen tower's tokens of clips in shards have the bits of runs that read those of files."""

import shutil

import pytest
from helpers.commands import run_cli, train_retrieval
from helpers.runs import differing

from stgt import checkpoint as ckpt
from stgt.data.features import FeatureStore

pd = pytest.importorskip("pandas", reason="pip install pandas pyarrow")

FROZEN = ["--model.vision.open-blocks", 0, "--data.workers", 0, "--vtc-epochs", 1]


@pytest.fixture(scope="module")
def packed(clips, tmp_path_factory):
    """The simulated clips in shards of one folder, with the manifests of both splits."""
    folder = tmp_path_factory.mktemp("packed")
    with pytest.MonkeyPatch.context() as patch:
        for split in ("train", "test"):
            words = ("--videos", clips / "videos", "--out", folder, "--shard-size", "20KB")
            assert run_cli(patch, "data", "pack", clips / f"{split}.json", *words) == 0
    return folder


def from_shards(packed):
    return ["--data.train", packed / "train.parquet", "--data.val", packed / "test.parquet", "--data.videos", packed]


def words(clips, out, *more):
    return train_retrieval(clips, out, *FROZEN, "--data.val", clips / "test.json", *more)


def write_features(patch, clips, out, *more):
    return run_cli(patch, "data", "features", "--out", out, "--views", 2, *words(clips, "runs/unused", *more)[1:])


@pytest.fixture(scope="module")
def cached(clips, packed, tmp_path_factory):
    """The folder of two caches and two runs: of the files, and of the shards."""
    folder = tmp_path_factory.mktemp("cached")
    with pytest.MonkeyPatch.context() as patch:
        for name, more in (("files", []), ("shards", from_shards(packed))):
            assert write_features(patch, clips, folder / f"{name} tokens", *more) == 0
            more = [*more, "--data.features", folder / f"{name} tokens"]
            assert run_cli(patch, *words(clips, folder / name, *more)) == 0
    return folder


def test_tokens_and_runs_of_shards_have_the_bits_of_those_of_files(cached):
    files, shards = (FeatureStore(cached / f"{name} tokens") for name in ("files", "shards"))
    assert files.shape[:2] == shards.shape[:2] == (19, 2)
    assert (files.tokens.all("tokens") == shards.tokens.all("tokens")).all()
    assert differing(cached / "files", cached / "shards") == []


def test_a_run_goes_on_within_an_epoch_with_the_same_bits(cached, clips, packed, tmp_path, monkeypatch):
    again = shutil.copytree(cached / "shards", tmp_path / "run")
    before, last = ckpt.checkpoints(again)[-2:]
    shutil.rmtree(last)
    assert ckpt.read_state(before)["step"] == 3  # within the second epoch, which has the steps 3 and 4
    tokens = ["--data.features", cached / "shards tokens", "--data.workers", 1]
    assert run_cli(monkeypatch, *words(clips, again, *from_shards(packed), *tokens)) == 0
    assert differing(cached / "shards", again) == []


def test_a_replaced_shard_and_another_tower_are_refused_by_name(cached, clips, packed, tmp_path, monkeypatch, capsys):
    data = shutil.copytree(packed, tmp_path / "packed")
    with open(data / "train-000000.tar", "ab") as shard:
        shard.write(bytes(512))
    tokens = ["--data.features", cached / "shards tokens"]
    run = words(clips, tmp_path / "run", *from_shards(data), *tokens)
    assert run_cli(monkeypatch, *run) == 2
    assert "was made of other data:\n  train-000000.tar: " in capsys.readouterr().err
    assert write_features(monkeypatch, clips, cached / "shards tokens", *from_shards(data)) == 2
    assert "was made of other videos:\n  train-000000.tar: " in capsys.readouterr().err
    assert run_cli(monkeypatch, *run, "--accept-changed-data") == 0
    other = words(clips, tmp_path / "other", *from_shards(packed), *tokens, "--seed", 5)
    assert run_cli(monkeypatch, *other) == 2
    assert "holds features of another kind: tower is " in capsys.readouterr().err


def test_a_member_that_is_lost_is_replaced_in_a_cached_run(clips, packed, tmp_path, monkeypatch, caplog):
    data = shutil.copytree(packed, tmp_path / "packed")
    frame = pd.read_parquet(data / "train.parquet")
    with open(data / frame["shard"][2], "r+b") as shard:
        shard.seek(int(frame["offset"][2]))
        shard.write(bytes(int(frame["size"][2])))
    assert write_features(monkeypatch, clips, tmp_path / "tokens", *from_shards(data)) == 0
    assert "1 of the 19 videos were listed as bad or could not be read" in caplog.text
    more = [*from_shards(data), "--data.features", tmp_path / "tokens"]
    assert run_cli(monkeypatch, *words(clips, tmp_path / "run", *more)) == 0
    assert ckpt.read_state(ckpt.latest_checkpoint(tmp_path / "run"))["replaced"] >= 2  # once in each epoch
