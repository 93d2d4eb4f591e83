"""A second command on a folder is told which command holds it, and a lock never outlives its process."""

import fcntl
import os
import signal
import subprocess
import sys
import threading

import pytest

from stgt.config import TrainConfig
from stgt.data.convert import convert
from stgt.data.shapes import render_shapes
from stgt.ownership import LOCK, OwnedError, claimed, clear_up, owned
from stgt.paper.ablation.run import Size, ablate
from stgt.training.run import train

HOLD = """
import os, sys, time
from stgt.ownership import owned
with owned(sys.argv[1], beside="beside" in sys.argv):
    child = os.fork() if "fork" in sys.argv else 0
    if not child:
        print(os.getpid(), flush=True)  # a forked child has let the lock go as soon as it runs
    time.sleep(600)
"""


@pytest.fixture
def hold(tmp_path):
    """Start a process that locks the folder. Returns it and the number of the child that it has forked, or its own."""
    started = []

    def hold(*options):
        command = [sys.executable, "-c", HOLD, str(tmp_path / "run"), *options]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        started.append(process)
        return process, int(process.stdout.readline())

    yield hold
    for process in started:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("beside", [False, True])
def test_the_second_command_is_told_which_command_holds_the_folder(beside, hold, tmp_path):
    process, _ = hold(*["beside"] * beside)
    expected = rf"run: another command is writing there \(process {process.pid} on .*run.*\); wait until it ends"
    with pytest.raises(OwnedError, match=expected), owned(tmp_path / "run", beside=beside):
        pass
    with owned(tmp_path / "another"):
        pass


def test_the_lock_of_a_killed_process_is_free_even_if_its_child_lives(hold, tmp_path):
    process, child = hold("fork")
    process.send_signal(signal.SIGKILL)
    process.wait()
    try:
        with owned(tmp_path / "run"):
            assert (tmp_path / "run" / LOCK).read_text().startswith(f"process {os.getpid()} on ")
    finally:
        os.kill(child, signal.SIGKILL)


def test_a_process_cannot_lock_a_folder_twice(tmp_path):
    with owned(tmp_path), pytest.raises(OwnedError), owned(tmp_path):
        pass
    with owned(tmp_path):
        pass


def train_tiny(out):
    train(TrainConfig(out=out, device="cpu"))


def ablate_tiny(out):
    ablate(["table2"], Size(seeds=1, epochs=1, clips=1000, test_clips=1), out, "cpu")


def convert_msvd(out):
    for split in ("train", "val", "test"):
        (out.parent / f"{split}_list.txt").write_text(f"{split}\n")
    (out.parent / "raw-captions.json").write_text('{"train": ["a"], "val": ["b"], "test": ["c"]}')
    convert("msvd", out.parent, out, any_size=True)


@pytest.mark.parametrize("command", [train_tiny, ablate_tiny, convert_msvd])
def test_a_command_that_writes_into_a_folder_locks_it_first(command, tmp_path):
    out = tmp_path / "out"
    with owned(out):
        with pytest.raises(OwnedError, match=f"{out}: another command is writing there"):
            command(out)
        assert os.listdir(out) == [LOCK]


def test_a_command_that_makes_a_folder_locks_its_place_first(tmp_path):
    with owned(tmp_path / "shapes", beside=True), pytest.raises(OwnedError, match="shapes: another command"):
        render_shapes(tmp_path / "shapes", train=1, test=1, size=32, frames=2)
    assert not (tmp_path / "shapes").exists()


def test_the_files_of_a_folder_are_locked_one_by_one(tmp_path):
    one, other = tmp_path / "new" / "a", tmp_path / "new" / "b"
    with claimed(one), claimed(other), pytest.raises(OwnedError, match="a: another command is writing"), claimed(one):
        pass
    assert os.listdir(tmp_path) == []


def test_a_file_can_be_waited_for(hold, tmp_path):
    process, _ = hold("beside")
    threading.Timer(0.2, process.kill).start()
    with claimed(tmp_path / "run", wait=True):
        assert process.wait() == -signal.SIGKILL


def test_locks_of_killed_processes_are_removed_and_those_of_others_stay(hold, tmp_path):
    process, _ = hold("beside")
    lock = tmp_path / f".run{LOCK}"
    clear_up(tmp_path)
    assert lock.exists()
    process.kill()
    process.wait()
    clear_up(tmp_path)
    assert not lock.exists()


def test_nothing_is_left_behind(tmp_path):
    with owned(tmp_path / "a" / "run"):
        pass
    with owned(tmp_path / "b" / "cache", beside=True):
        pass
    assert os.listdir(tmp_path) == []
    with owned(tmp_path / "c"):
        (tmp_path / "c" / "file").touch()
    assert os.listdir(tmp_path / "c") == ["file"]


def test_a_file_system_without_locks_is_warned_about(tmp_path, monkeypatch, caplog):
    def refuse(*_):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with owned(tmp_path / "run"), owned(tmp_path / "run"):
        pass
    assert "the file system has no locks (Operation not supported)" in caplog.text


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file/run: could not be written"), owned(tmp_path / "file" / "run"):
        pass
