"""The same command gives the same bits, also if it was killed and started again, and refuses what has changed."""

import json
import os
import signal

import pytest
import torch
from helpers.commands import FINSTA
from helpers.forks import Fork, command
from helpers.runs import differing

from stgt import checkpoint as ckpt
from stgt import files
from stgt.finsta.training.trainer import PostTrainer
from stgt.training.finite import FiniteValues
from stgt.training.log import read_log

GROUPS = ("model", "objective", "optimizer", "random")


def before_step(monkeypatch, step, act):
    """Let something happen before a step is made."""
    advance = PostTrainer._advance

    def changed(self, *args):
        if self.step == step:
            act()
        advance(self, *args)

    monkeypatch.setattr(PostTrainer, "_advance", changed)


@pytest.mark.parametrize("step", [2, 5])
def test_a_post_training_that_died_ends_with_the_same_bits(post_train, trained, tmp_path, monkeypatch, step):
    def die():
        raise MemoryError("none left")

    with monkeypatch.context() as patch:
        before_step(patch, step, die)
        assert post_train(tmp_path / "out")[0] == 1
    assert ckpt.read_state(ckpt.latest_checkpoint(tmp_path / "out"))["step"] == step // 3 * 3
    assert not (tmp_path / "out/finsta.safetensors").exists()
    assert post_train(tmp_path / "out")[0] == 0
    assert differing(tmp_path / "out", trained, GROUPS) == []
    steps = [record["step"] for record in read_log(tmp_path / "out")]
    assert steps == [2, 4, 6, 8]


def test_a_signal_ends_it_after_a_step_with_a_checkpoint(post_train, trained, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        before_step(patch, 4, lambda: os.kill(os.getpid(), signal.SIGTERM))
        status, printed = post_train(tmp_path / "out")
    assert status == 128 + signal.SIGTERM and "stopped after step 5 of 8" in printed
    assert post_train(tmp_path / "out", "--keep", 5)[0] == 0
    assert differing(tmp_path / "out", trained, GROUPS) == []


@pytest.mark.skipif(torch.get_num_threads() > 1, reason="a fork has one thread, and the number changes the bits")
def test_a_killed_process_leaves_a_folder_that_goes_on(post_train, trained, tmp_path, run, graphs, monkeypatch):
    words = ["finsta", "train", run, "--graphs", graphs, "--out", tmp_path / "out", *FINSTA]
    with monkeypatch.context() as patch:
        before_step(patch, 7, lambda: os.kill(os.getpid(), signal.SIGKILL))
        code, output = Fork(command, *words).finish()
    assert code == -signal.SIGKILL, output
    assert ckpt.read_state(ckpt.latest_checkpoint(tmp_path / "out"))["step"] == 6
    assert post_train(tmp_path / "out")[0] == 0
    assert differing(tmp_path / "out", trained, GROUPS) == []


def test_another_seed_gives_other_bits_and_a_cache_of_frames_does_not(post_train, trained, tmp_path):
    assert post_train(tmp_path / "cached", "--cache")[0] == 0
    assert differing(tmp_path / "cached", trained, GROUPS) == []
    assert post_train(tmp_path / "seed", "--seed", 1)[0] == 0
    assert differing(tmp_path / "seed", trained, GROUPS)


def test_a_finished_folder_is_left_as_it_is(post_train, trained, tmp_path):
    assert post_train(tmp_path / "out")[0] == 0
    before = (tmp_path / "out/finsta.safetensors").read_bytes()
    path = tmp_path / "out/finsta.json"
    settings = json.loads(path.read_text())
    del settings["finsta"]["labels"]  # as written by a version without this setting
    path.write_text(json.dumps(settings))
    ended = Fork(os.getpid)
    ended.finish()
    leftover = tmp_path / f"out/checkpoints/.partial-{ended.pid}-0@{files._host()}@step-00000003"
    leftover.mkdir()  # as after a process that was killed while it removed an old checkpoint
    assert post_train(tmp_path / "out")[0] == 0
    assert not leftover.exists()
    assert (tmp_path / "out/finsta.safetensors").read_bytes() == before
    assert differing(tmp_path / "out", trained, GROUPS) == []


def test_other_settings_and_other_data_are_refused(post_train, clips, graphs, tmp_path):
    file = tmp_path / "graphs.jsonl"
    file.write_text(graphs.read_text())
    videos = ["--videos", clips / "videos"]
    assert post_train(tmp_path / "out", *videos, "--epochs", 1, file=file)[0] == 0
    status, printed = post_train(tmp_path / "out", *videos, "--lr", 0.5, "--finsta.tau", 0.1, file=file)
    assert status == 2 and "lr: 0.5, there 0.0001" in printed and "finsta.tau: 0.1, there 0.07" in printed
    settings = tmp_path / "out/finsta.json"
    whole = settings.read_text()
    settings.write_text(whole.replace('"tau"', '"tao"'))
    status, printed = post_train(tmp_path / "out", *videos, file=file)
    assert status == 2 and "finsta.json: FinstaConfig has no field tao" in printed
    settings.write_text(whole)
    lines = file.read_text().splitlines()
    file.write_text("\n".join([lines[1], lines[0], *lines[2:]]) + "\n")
    status, printed = post_train(tmp_path / "out", *videos, file=file)
    assert status == 2 and "started with other data" in printed and "graphs: SHA-256" in printed
    assert post_train(tmp_path / "out", *videos, "--accept-changed-data", file=file)[0] == 0


def test_a_folder_that_is_renamed_meanwhile_is_not_made_again(post_train, trained, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        before_step(patch, 4, lambda: (tmp_path / "out").rename(tmp_path / "moved"))
        status, printed = post_train(tmp_path / "out")
    assert status == 2 and "step-00000003 is gone, so" in printed and not (tmp_path / "out/checkpoints").exists()
    (tmp_path / "moved").rename(tmp_path / "out")
    assert post_train(tmp_path / "out", "--keep", 5)[0] == 0
    assert differing(tmp_path / "out", trained, GROUPS) == []


def test_settings_that_no_file_can_hold_are_refused_before_anything_is_written(post_train, tmp_path):
    status, printed = post_train(tmp_path / "out", "--align-epochs", 10**22)
    assert status == 2 and "found a number of 23 digits at align_epochs, expected fewer than 20" in printed
    assert not (tmp_path / "out").exists()


def test_the_folder_of_another_run_is_refused(post_train, run, trained, tmp_path, monkeypatch):
    status, printed = post_train(run)
    assert status == 2 and "the folder of the host, expected another one" in printed
    other = tmp_path / "other"
    (other / "checkpoints").mkdir(parents=True)
    (other / "checkpoints/step-00000002").symlink_to(ckpt.latest_checkpoint(run))
    status, printed = post_train(other)
    assert status == 2 and "holds a run without finsta.json" in printed
    assert json.loads((trained / "finsta.json").read_text())["control"] == "finsta"


def test_a_loss_that_is_not_finite_ends_it_and_names_the_files(post_train, tmp_path, monkeypatch):
    advance = PostTrainer._advance

    def spoil(self, *args):
        if self.step == 5:
            next(self.model.parameters()).data.fill_(float("nan"))
        advance(self, *args)

    monkeypatch.setattr(PostTrainer, "_advance", spoil)
    status, printed = post_train(tmp_path / "out")
    assert status == 1 and "loss is nan at step 6, on these files:" in printed and ".mp4" in printed
    assert "with another --out starts another run" in printed
    assert ckpt.read_state(ckpt.latest_checkpoint(tmp_path / "out"))["step"] == 3


def test_the_host_waits_for_a_gpu_only_where_something_is_kept(post_train, tmp_path, monkeypatch):
    read, require, note = [], FiniteValues.require, FiniteValues.note

    def noted(self, what, value, step, paths):
        self.at_once = False  # as on a GPU
        note(self, what, value, step, paths)

    def required(self):
        read.append({value.step for value in self._noted})
        require(self)

    monkeypatch.setattr(FiniteValues, "note", noted)
    monkeypatch.setattr(FiniteValues, "require", required)
    assert post_train(tmp_path / "out")[0] == 0
    checked = [steps for steps in read if steps]
    assert max(map(len, checked)) > 1  # several steps are looked at in one go
    last = ckpt.read_state(ckpt.latest_checkpoint(tmp_path / "out"))["step"]
    assert set.union(*checked) == {*range(1, last + 1)}


def test_each_stage_has_a_warm_up_and_a_cosine_of_its_own(post_train, tmp_path, monkeypatch):
    rates, set_rates = [], PostTrainer._set_rates

    def noted(self):
        set_rates(self)
        rates.append({group["largest"]: group["lr"] for group in self.optimizer.param_groups})

    monkeypatch.setattr(PostTrainer, "_set_rates", noted)
    assert post_train(tmp_path / "out", "--warmup", 0.5, "--lr", 1e-3, "--host-lr", 1e-4)[0] == 0
    factors = [0.5, 1.0, 1.0, 0.01] * 2
    for step, factor in zip(rates, factors, strict=True):
        assert step == pytest.approx({1e-3: 1e-3 * factor, 1e-4: 1e-4 * factor})
