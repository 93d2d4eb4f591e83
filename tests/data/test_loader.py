"""Other processes read batches: the batches stay the same if one is killed, and no process is left behind."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader

from stgt.data.loader import LoaderError, parts, read_batches

ROOT = Path(__file__).parents[2]


class Numbers(torch.utils.data.Dataset):
    """Item i is i. The process that reads item `deadly` is killed; with a `marker` file to write, only once."""

    def __init__(self, deadly=None, marker=None):
        self.deadly, self.marker = deadly, marker

    def __getitem__(self, i):
        if i == self.deadly and not (self.marker and self.marker.exists()):
            if self.marker:
                self.marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return i


class Processes(torch.utils.data.Dataset):
    """Item i tells about the process that reads it: its id, its number of threads, and whether it ignores signals."""

    def __getitem__(self, i):
        held = signal.pthread_sigmask(signal.SIG_BLOCK, [])
        asked = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
        return torch.tensor([os.getpid(), torch.get_num_threads(), asked <= held])


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_come_in_order(workers):
    found = [batch.tolist() for batch in read_batches(Numbers(), parts(7, 3), workers=workers)]
    assert found == [[0, 1, 2], [3, 4, 5], [6]]


def test_torchs_generator_is_left_alone():
    before = torch.get_rng_state()
    list(read_batches(Numbers(), parts(4, 2), workers=0))
    assert torch.equal(torch.get_rng_state(), before)


def test_a_process_that_is_killed_gives_a_warning(tmp_path, caplog):
    items = Numbers(deadly=5, marker=tmp_path / "killed")
    found = [batch.tolist() for batch in read_batches(items, iter(parts(12, 2)), workers=2)]
    assert found == [[0, 1], [2, 3], [4, 5], [6, 7], [8, 9], [10, 11]]
    assert "a process that reads videos was killed; new ones replace all of them" in caplog.text


def test_processes_that_are_killed_again_end_with_a_clear_error():
    with pytest.raises(LoaderError, match="--data.workers"):
        list(read_batches(Numbers(deadly=3), parts(6, 2), workers=1))


class Broken(torch.utils.data.Dataset):
    """Every item raises an exception of the given kind."""

    def __init__(self, kind):
        self.kind = kind

    def __getitem__(self, i):
        raise self.kind(f"item {i} is broken")


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("kind", [ConnectionError, EOFError, RuntimeError])
def test_an_error_of_the_data_set_does_not_count_as_a_killed_process(kind, workers, caplog):
    with pytest.raises(kind, match="item 0 is broken"):
        list(read_batches(Broken(kind), parts(2, 1), workers=workers))
    assert "killed" not in caplog.text


def test_a_message_that_was_cut_off_is_read_again_by_another_process(monkeypatch, caplog):
    deaths = [ConnectionResetError(104, "Connection reset by peer"), EOFError()]
    iterate = DataLoader.__iter__

    def cut_off(loader):
        for number, batch in enumerate(iterate(loader)):
            if number == 1 and deaths:
                raise deaths.pop()
            yield batch

    monkeypatch.setattr(DataLoader, "__iter__", cut_off)
    found = [batch.tolist() for batch in read_batches(Numbers(), parts(8, 2), workers=1)]
    assert found == [[0, 1], [2, 3], [4, 5], [6, 7]] and deaths == []
    assert caplog.text.count("new ones replace all of them") == 2


def test_the_processes_are_new_have_one_thread_and_ignore_signals():
    ((pid, count, held),) = next(iter(read_batches(Processes(), parts(1, 1), workers=1)))
    assert pid != os.getpid() and count == 1 and held
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, []) & {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}


ORPHANS = """
import os, sys
sys.path.insert(0, sys.argv[1])
from stgt.data.loader import parts, read_batches
from test_loader import Processes
read = read_batches(Processes(), parts(100, 1), workers=2)
print(*(int(next(read)[0][0]) for _ in range(2)), flush=True)
os.read(0, 1)
"""


def test_no_process_outlives_a_parent_that_was_killed():
    command = [sys.executable, "-c", ORPHANS, str(Path(__file__).parent)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    parent = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
    workers = [int(word) for word in parent.stdout.readline().split()]
    assert len(set(workers)) == 2 and all(is_alive(worker) for worker in workers)
    parent.kill()
    parent.communicate()
    deadline = time.monotonic() + 120
    while any(is_alive(worker) for worker in workers):
        assert time.monotonic() < deadline, "a process that read for a killed one still runs"
        time.sleep(0.05)


def is_alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


TRACKER = """
import os, signal, sys
from multiprocessing import resource_tracker
from stgt.data.loader import parts, read_batches
sys.path.insert(0, sys.argv[1])
from test_loader import Processes
read = read_batches(Processes(), parts(4, 1), workers=1)
next(read)
os.kill(resource_tracker._resource_tracker._pid, signal.SIGHUP)
print(len([*read]))
"""


def test_a_signal_to_the_whole_group_leaves_the_resource_tracker():
    """Without its tracker, Python prints a traceback when the queues of the processes are removed."""
    command = [sys.executable, "-c", TRACKER, str(Path(__file__).parent)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=500)
    assert done.stdout == "3\n" and "Traceback" not in done.stderr and "resource_tracker" not in done.stderr
