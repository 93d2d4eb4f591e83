"""If a command is killed at a write or the disk is full, its files are complete, and the same command then finishes."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

FAULTS = Path(__file__).parent / "helpers" / "faults.py"
COMMANDS = ("pretrained", "released", "annotation", "shapes", "features", "store", "pictures", "graphs", "shards")


@pytest.fixture(scope="module")
def trials(tmp_path_factory):
    """The trials of each command, as faults.py reports them."""
    done = subprocess.run([sys.executable, FAULTS, tmp_path_factory.mktemp("faults")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines()]
    return {command: [trial for trial in found if trial["command"] == command] for command in COMMANDS}


def is_hidden(name):
    return any(part.startswith(".") for part in Path(name).parts)


def assert_whole_or_absent(left, whole):
    """Every file of the finished command is either absent or has its final bytes."""
    assert {name: content for name, content in left.items() if name in whole and whole[name] != content} == {}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_killed_command_leaves_whole_files_and_goes_on_when_repeated(command, trials):
    whole, *others = trials[command]
    assert whole["status"] == 0, whole["said"]
    killed = [trial for trial in others if trial["kind"] == "killed"]
    assert len(killed) >= 4
    for trial in killed:
        assert trial["status"] == -signal.SIGKILL
        assert_whole_or_absent(trial["left"], whole["left"])
        assert trial["again"] == 0, trial["said"]
        assert trial["whole"] == whole["left"]  # this includes hidden files, so none is left behind


@pytest.mark.parametrize("command", COMMANDS)
def test_on_a_full_disk_the_file_is_named_and_nothing_is_left_behind(command, trials):
    whole, *others = trials[command]
    for trial in (trial for trial in others if trial["kind"] == "full"):
        if trial["status"]:  # the files of some commands are all small enough
            assert trial["status"] == 2 and trial["out"] in trial["said"], trial["said"]
            assert trial["said"].split()[0] == "OSError", trial["said"]
            assert trial["said"].count("\n") == 1
        assert_whole_or_absent(trial["left"], whole["left"])
        assert not any(is_hidden(name) for name in trial["left"])
        assert trial["again"] == 0 and trial["whole"] == whole["left"]
    assert any(trial["status"] == 2 for trial in others if trial["kind"] == "full")
