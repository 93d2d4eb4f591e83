"""Real processes that end by SIGKILL, SIGTERM or a full disk go on and end with the same bits."""

import os
import signal
import subprocess
import sys
import time

import pytest
import torch
import torch.distributed as dist
from helpers import standin
from helpers.forks import Fork
from helpers.runs import differing
from helpers.standin import weights

from stgt import checkpoint as ckpt
from stgt.training.log import read_log

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone", standin.__file__]


def start(out, *settings):
    return Fork(standin.main, out, *settings)


def run(out, *settings, expect=0):
    code, output = start(out, *settings).finish()
    assert code == expect, output
    return output


def joined(rank, store, out, *settings):
    dist.init_process_group("gloo", f"file://{store}", rank=rank, world_size=2)
    standin.main(out, *settings)


def run_two(store, out, *settings):
    """Run two processes. The first one's status and output are returned, and then the second one is ended."""
    first, second = (Fork(joined, rank, store, out, *settings) for rank in range(2))
    ended = first.finish()
    if ended[0]:
        second.kill()
    second.finish()
    return ended


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "whole"
    run(out)
    return out


# A checkpoint takes 10 calls: 3 groups of tensors are written, 4 files and their folder are forced to the disk, the
# folder is renamed, and the folder around it is forced to the disk. The log's 2 calls come after the first checkpoint.
# The third checkpoint also renames the first one, to remove it. The processes die in the first checkpoint, in the log,
# in the second checkpoint, before it is renamed, and after the first one is renamed.
@pytest.mark.parametrize("place", ["step:0", "step:6", "write:2", "write:12", "write:14", "write:20", "write:33"])
def test_a_killed_and_resumed_run_ends_with_the_same_bits(place, whole, tmp_path):
    run(tmp_path, f"kill={place}", expect=-signal.SIGKILL)
    assert len(ckpt.checkpoints(tmp_path)) <= 2
    run(tmp_path)
    assert differing(whole, tmp_path) == []
    assert not list(tmp_path.glob("**/.partial-*"))
    assert [r["step"] for r in read_log(tmp_path)][-6:] == [6, 9, 12, 15, 18, 20]


def test_a_run_that_is_killed_many_times_ends_with_the_same_bits(whole, tmp_path):
    for place in ("write:4", "step:9", "write:11"):
        run(tmp_path, f"kill={place}", expect=-signal.SIGKILL)
    run(tmp_path)
    assert differing(whole, tmp_path) == []


def test_workers_and_accumulation_change_nothing_about_resuming(tmp_path):
    run(tmp_path / "whole", "workers=0", "accumulate=2", "precision=fp16")
    run(tmp_path / "killed", "workers=2", "accumulate=2", "precision=fp16", "kill=step:7", expect=-signal.SIGKILL)
    run(tmp_path / "killed", "workers=1", "accumulate=2", "precision=fp16")
    assert differing(tmp_path / "whole", tmp_path / "killed") == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_to_all_processes_leaves_a_checkpoint_of_the_present_step(number, tmp_path):
    process = start(tmp_path, "epochs=4000", "save_every=1000000", "workers=2", "accumulate=4")
    while not read_log(tmp_path):
        assert process.is_running(), process.finish()
        time.sleep(0.01)
    for _ in range(2):  # a launcher repeats the signals that its processes have got already
        os.killpg(process.pid, number)
    code, output = process.finish()
    assert code != 0 and "StoppedError: stopped after step" in output
    step = ckpt.read_state(ckpt.latest_checkpoint(tmp_path))["step"]
    assert 0 < step < 5000 and f"after step {step} of 5000" in output


def test_a_ctrl_c_under_torchrun_stops_both_processes_after_the_same_step(tmp_path):
    process = subprocess.Popen(
        [*TORCHRUN, tmp_path, "epochs=4000", "save_every=1000000", "workers=1"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
        start_new_session=True,  # the command has its own process group, as in a shell
    )
    while not read_log(tmp_path):
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    output, _ = process.communicate(timeout=500)
    step = ckpt.read_state(ckpt.latest_checkpoint(tmp_path))["step"]
    assert process.returncode != 0 and step > 0
    assert output.count(f"StoppedError: stopped after step {step} of 8000") == 2, output


def test_a_full_disk_stops_the_run_with_the_last_checkpoint_intact(whole, tmp_path):
    run(tmp_path, "kill=step:6", expect=-signal.SIGKILL)
    before = weights(tmp_path)
    # The operating system refuses to let a file grow beyond this number of bytes.
    output = run(tmp_path, "full=1500", expect=1)
    assert "step-00000008: could not be written" in output and "step-00000004 is intact" in output
    assert all(torch.equal(before[name], tensor) for name, tensor in weights(tmp_path).items())
    assert not list(tmp_path.glob("**/.partial-*"))
    run(tmp_path)
    assert differing(whole, tmp_path) == []


def test_two_processes_are_killed_and_resumed_too(tmp_path):
    stores = (tmp_path / f"store{n}" for n in range(3))
    assert run_two(next(stores), tmp_path / "whole", "epochs=2")[0] == 0
    assert run_two(next(stores), tmp_path / "killed", "epochs=2", "kill=step:2")[0] != 0
    output = run(tmp_path / "killed", "epochs=2", expect=1)
    assert "was written by 2 processes, but now there are 1" in output and "go on with --global-batch 10" in output
    assert run_two(next(stores), tmp_path / "killed", "epochs=2")[0] == 0
    assert differing(tmp_path / "whole", tmp_path / "killed") == []
    random = ckpt.read_tensors(ckpt.latest_checkpoint(tmp_path / "whole"), "random")
    assert {name.split(".")[0] for name in random} == {"0", "1"}
