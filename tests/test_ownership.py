"""Two commands on one folder: the second is told who holds it, and a lock never outlives its process."""

import fcntl
import os
import signal
import subprocess
import sys

import pytest

from stgt.ownership import LOCK, OwnedError, owned

HOLD = """
import os, sys, time
from stgt.ownership import owned
with owned(sys.argv[1], beside="beside" in sys.argv):
    child = os.fork() if "fork" in sys.argv else 1
    if child:
        print(child, flush=True)
    time.sleep(600)
"""


@pytest.fixture
def hold(tmp_path):
    """Start a process that owns the folder; returns it and the number of the child that it has forked, if any."""
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
def test_the_second_is_told_who_holds_the_folder(beside, hold, tmp_path):
    process, _ = hold(*["beside"] * beside)
    expected = rf"run: another command is writing there \(process {process.pid} on .*run.*\); wait until it ends"
    with pytest.raises(OwnedError, match=expected), owned(tmp_path / "run", beside=beside):
        pass
    with owned(tmp_path / "another"):
        pass


def test_a_killed_owner_owns_nothing_even_if_its_child_lives(hold, tmp_path):
    process, child = hold("fork")
    process.send_signal(signal.SIGKILL)
    process.wait()
    try:
        with owned(tmp_path / "run"):
            assert (tmp_path / "run" / LOCK).read_text().startswith(f"process {os.getpid()} on ")
    finally:
        os.kill(child, signal.SIGKILL)


def test_a_process_does_not_own_a_folder_twice(tmp_path):
    with owned(tmp_path), pytest.raises(OwnedError), owned(tmp_path):
        pass
    with owned(tmp_path):
        pass


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
