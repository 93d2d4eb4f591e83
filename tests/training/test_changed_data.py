"""A run goes on only with the data that it was started with, unless it is told to accept other data."""

import json
import os
import shutil
from dataclasses import replace

import pytest
from helpers.commands import TINY, TWO_EPOCHS, run_cli

from stgt import checkpoint as ckpt
from stgt.cli import data as commands
from stgt.config import TrainConfig, from_dict
from stgt.data.shapes import render_shapes
from stgt.files import file_hash
from stgt.integrity import CHECKSUMS
from stgt.training.inputs import fingerprint_file


@pytest.fixture(scope="module")
def rendered(tmp_path_factory):
    return render_shapes(tmp_path_factory.mktemp("data") / "original", train=8, test=2, size=32, frames=4)


@pytest.fixture(scope="module")
def trained(rendered, tmp_path_factory):
    """The folder of the data that the run was started with, and the run. Tests do not write into them."""
    folder = tmp_path_factory.mktemp("trained")
    data = shutil.copytree(rendered, folder / "data")
    (data / "bad.json").write_text("{}")
    with pytest.MonkeyPatch.context() as patch:
        assert train(patch, data, folder / "run", "--data.check-contents") == 0
    return data, folder / "run"


@pytest.fixture
def data(trained, tmp_path):
    """The run's data folder, which is restored after the test."""
    kept = shutil.copytree(trained[0], tmp_path / "kept")
    yield trained[0]
    shutil.rmtree(trained[0])
    shutil.copytree(kept, trained[0])


@pytest.fixture
def run(trained, tmp_path):
    return shutil.copytree(trained[1], tmp_path / "run")


def train(monkeypatch, data, out, *more):
    """Run `stgt train` in this process and return its exit status."""
    paths = ["--data.train", data / "train.json", "--data.test", data / "test.json", "--data.videos", data / "videos"]
    paths += ["--data.val", data / "test.json", "--data.bad-list", data / "bad.json"]
    words = ["train", "quickstart", *TINY, *TWO_EPOCHS, "--epochs", 1, *paths, "--out", out, *more]
    words[words.index("--vtc-epochs") + 1] = 0
    return run_cli(monkeypatch, *words)


def exchange(one, other):
    one.rename(one.with_name("x"))
    other.rename(one)
    one.with_name("x").rename(other)


def replace_captions(data):
    pairs = json.loads((data / "train.json").read_text())
    for pair in pairs:
        pair["caption"] += " again"
    (data / "train.json").write_text(json.dumps(pairs))


def remove_half(data):
    pairs = json.loads((data / "train.json").read_text())
    (data / "train.json").write_text(json.dumps(pairs[::2]))


def damage_in_silence(data):
    path = data / "videos" / "train_00003.mp4"
    time, content = path.stat().st_mtime_ns, bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(time, time))


@pytest.mark.parametrize(
    ("change", "more", "expected"),
    [
        (replace_captions, (), ["data.train: SHA-256 "]),
        (remove_half, (), ["data.train: SHA-256 ", "videos: 4 of 10 are left out, the first is train_00001.mp4"]),
        (lambda data: (data / "bad.json").write_text("{ }"), (), ["data.bad_list: SHA-256 "]),
        (
            lambda data: exchange(data / "videos" / "train_00000.mp4", data / "videos" / "train_00001.mp4"),
            (),
            ["train_00000.mp4: ", "train_00001.mp4: "],
        ),
        (
            lambda data: exchange(data / "videos" / "test_00000.mp4", data / "videos" / "test_00001.mp4"),
            (),
            ["test_00"],
        ),
        (damage_in_silence, ("--data.check-contents",), ["train_00003.mp4: SHA-256 "]),
    ],
)
def test_differences_are_named_and_accepted_on_request(change, more, expected, data, run, monkeypatch, capsys, caplog):
    before = ckpt.latest_checkpoint(run).name
    change(data)
    assert train(monkeypatch, data, run, *more) == 2
    error = capsys.readouterr().err
    assert f"{run} holds a run that was started with other data:" in error and "--accept-changed-data" in error
    assert all(f"\n  {line}" in error for line in expected), error
    assert "\\n" not in error  # the terminal shows every line break of the message
    assert ckpt.latest_checkpoint(run).name == before
    assert train(monkeypatch, data, run, "--accept-changed-data", *more) == 0
    assert "\n  --accept-changed-data is given, so the command goes on" in caplog.text
    assert train(monkeypatch, data, run, *more) == 0  # the run now has these data


def test_a_new_run_refuses_simulated_clips_that_have_changed(data, tmp_path, monkeypatch, capsys):
    damage_in_silence(data)
    assert train(monkeypatch, data, tmp_path / "new") == 2
    error = capsys.readouterr().err
    assert "train_00003.mp4: the file was changed or damaged after it was written" in error
    assert f"if it was changed on purpose, remove {data / CHECKSUMS}" in error.replace("\n", " ")
    assert not (tmp_path / "new").exists()
    (data / CHECKSUMS).unlink()
    assert train(monkeypatch, data, tmp_path / "new") == 0


def test_copied_videos_are_recognised_by_their_contents(data, run, monkeypatch):
    for path in (data / "videos").iterdir():
        os.utime(path, ns=(0, 10**18))
    assert train(monkeypatch, data, run) == 0


def test_the_state_of_each_checkpoint_names_the_data(trained):
    data, run = trained
    for checkpoint in ckpt.checkpoints(run):
        told = ckpt.read_state(checkpoint)["data"]
        assert told["files"].keys() == {"data.train", "data.val", "data.bad_list"} and told["videos"] == 10
        assert told["files"]["data.train"] == file_hash(data / "train.json") and told["decoder"]


def test_a_run_whose_record_is_gone_or_damaged_is_refused(data, run, monkeypatch, capsys):
    record = fingerprint_file(run)
    whole = record.read_bytes()
    record.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert train(monkeypatch, data, run) == 2
    assert "it cannot be told whether the data are the same:\n" in capsys.readouterr().err
    record.unlink()
    assert train(monkeypatch, data, run) == 2
    assert train(monkeypatch, data, run, "--accept-changed-data") == 0
    assert record.is_file() and train(monkeypatch, data, run) == 0


def test_a_run_whose_configuration_is_gone_is_refused(data, run, monkeypatch, capsys):
    content = (run / "config.json").read_bytes()
    (run / "config.json").unlink()
    replace_captions(data)
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    assert train(monkeypatch, data, run, "--optim.lr", "0.5") == 2
    error = capsys.readouterr().err
    assert f"{run / 'config.json'}: there is no such file, but there are checkpoints" in error
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
    (run / "config.json").write_bytes(content)
    assert train(monkeypatch, data, run, "--optim.lr", "0.5") == 2
    error = capsys.readouterr().err
    assert "\n  optim.lr: 0.5, there" in error and "\n  repeat the command with the values of that run" in error


def test_a_run_of_version_0_1_0_goes_on_with_a_warning(data, run, monkeypatch, caplog):
    fingerprint_file(run).unlink()
    for checkpoint in ckpt.checkpoints(run):
        state = ckpt.read_state(checkpoint)
        del state["data"]
        (checkpoint / "state.json").write_text(json.dumps(state))
    assert train(monkeypatch, data, run) == 0
    assert "was started by version 0.1.0, which did not record its data" in caplog.text
    assert fingerprint_file(run).is_file()


def test_a_flipped_byte_in_the_tokenizer_is_refused(data, run, monkeypatch, capsys):
    files = [path for path in (run / "tokenizer").iterdir()]
    assert len(files) >= 2
    for path in files:
        whole = path.read_bytes()
        path.write_bytes(whole[:5] + bytes([whole[5] ^ 1]) + whole[6:])
        assert train(monkeypatch, data, run, "--accept-changed-data") == 2
        assert str(run / "tokenizer") in capsys.readouterr().err
        path.write_bytes(whole)
    assert train(monkeypatch, data, run) == 0


def test_a_feature_cache_of_replaced_videos_is_refused(data, run, monkeypatch, capsys, tmp_path):
    cache, out = tmp_path / "cache", tmp_path / "cached"
    frozen = ["--model.vision.open-blocks", "0"]
    config = from_dict(TrainConfig, json.loads((run / "config.json").read_text()))
    vision = replace(config.model.vision, open_blocks=0)
    commands.features(replace(config, model=replace(config.model, vision=vision)), cache, device="cpu")
    cached = [*frozen, "--data.features", cache]
    assert train(monkeypatch, data, out, *cached) == 0
    exchange(data / "videos" / "train_00000.mp4", data / "videos" / "train_00001.mp4")
    capsys.readouterr()
    assert train(monkeypatch, data, out, *cached) == 2
    error = capsys.readouterr().err
    assert f"{cache} was made of other data:\n  train_00000.mp4: " in error
    assert train(monkeypatch, data, out, *cached, "--accept-changed-data") == 0


def other_validation_captions(data):
    pairs = json.loads((data / "test.json").read_text())
    pairs[0]["caption"] += " again"
    (data / "test.json").write_text(json.dumps(pairs))


def exchange_validation_videos(data):
    exchange(data / "videos" / "test_00000.mp4", data / "videos" / "test_00001.mp4")


class StoppedForTest(BaseException):
    pass


def stop_after(step):
    def stop(trainer, _):
        if trainer.step == step:
            raise StoppedForTest

    return stop


@pytest.mark.parametrize(
    ("change", "forgotten"),
    [(other_validation_captions, True), (exchange_validation_videos, True), (replace_captions, False)],
)
def test_figures_of_two_validation_sets_are_not_compared(change, forgotten, data, monkeypatch, caplog, tmp_path):
    """The first epoch gets a figure that no later epoch can reach. It counts for the data that it was measured on."""
    with monkeypatch.context() as patch:
        patch.setattr("stgt.training.trainer.Trainer._stop_if_asked", stop_after(2))
        with pytest.raises(StoppedForTest):
            train(patch, data, tmp_path / "run", "--epochs", 2)
    newest = ckpt.newest_checkpoint(tmp_path / "run")
    best = ckpt.read_state(newest)["best"]
    assert best["step"] == 2
    ckpt.update_state(newest, best=best | {"value": 101.0})
    change(data)
    assert train(monkeypatch, data, tmp_path / "run", "--epochs", 2, "--accept-changed-data") == 0
    found = ckpt.read_state(ckpt.latest_checkpoint(tmp_path / "run"))["best"]
    assert (found["value"] <= 100) == forgotten == ("best on other validation data" in caplog.text)
    complete = ckpt.read_state(ckpt.latest_checkpoint(tmp_path / "run"))
    other_validation_captions(data)
    assert train(monkeypatch, data, tmp_path / "run", "--epochs", 2, "--accept-changed-data") == 0
    assert ckpt.read_state(ckpt.latest_checkpoint(tmp_path / "run")) == complete  # the run was complete


def test_a_run_that_a_broken_validation_video_ended_goes_on_with_a_bad_list(rendered, tmp_path, monkeypatch, capsys):
    data, run = shutil.copytree(rendered, tmp_path / "data"), tmp_path / "run"
    (data / CHECKSUMS).unlink()
    broken = json.loads((data / "test.json").read_text())[0]["video"]
    (data / "videos" / broken).write_bytes(b"half a download")
    (data / "bad.json").write_text("{}")
    paths = ["--data.train", data / "train.json", "--data.val", data / "test.json", "--data.videos", data / "videos"]
    words = ["train", "quickstart", *TINY, "--epochs", 1, *paths, "--out", run]
    assert run_cli(monkeypatch, *words) == 2
    assert f"{broken}: not a video file" in (told := capsys.readouterr().err)
    assert "list it in --data.bad-list, and go on with --accept-changed-data" in told
    kept = ckpt.read_state(ckpt.newest_checkpoint(run))
    assert kept["step"] > 0 and kept["unmeasured"] == 0  # no step of the epoch is made again
    (data / "bad.json").write_text(json.dumps({broken: "cut short"}))
    words += ["--data.bad-list", data / "bad.json"]
    assert run_cli(monkeypatch, *words) == 2
    assert "data.bad_list: SHA-256 " in capsys.readouterr().err
    assert run_cli(monkeypatch, *words, "--accept-changed-data") == 0
    measured = ckpt.read_state(ckpt.newest_checkpoint(run))
    assert measured["best"]["step"] == measured["step"] == kept["step"] and measured["unmeasured"] is None
