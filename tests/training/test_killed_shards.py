"""A run whose processes are killed while they write shards of a checkpoint goes on from the checkpoint before it."""

import logging
import os
import signal
from pathlib import Path

import pytest
import torch.distributed as dist
from helpers import standin
from helpers.forks import Fork
from helpers.runs import differing
from torch.distributed.checkpoint.filesystem import FileSystem

from stgt import checkpoint as ckpt
from stgt import files
from stgt.checkpoint import write
from stgt.distributed import start_world
from stgt.training.log import read_log

SETTINGS = dict(sharded=True, epochs=4, batch_size=5, save_every=2, keep=2, log_every=1)
STEPS = 8


def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)


def die_within(_, path, mode):
    Path(path).write_bytes(b"\x08\x00")  # a shard begins with its length in eight bytes
    die()


# The place in the checkpoint at which a process dies is the nth call of a function.
PLACES = {
    "before the first shard": (write, "write_shards", 1, die),
    "in the first shard": (FileSystem, "create_stream", 1, die_within),
    "between the two shards": (write, "write_shards", 2, die),
    "in the second shard": (FileSystem, "create_stream", 2, die_within),
    "after the second shard": (write, "file_hash", 2, die),
    "before the state": (write, "save_tensors", 1, die),
    "before the folder is named": (os, "rename", 1, die),
    "after the folder is named": (write, "rotate", 1, die),
    "while an old checkpoint is removed": (files.shutil, "rmtree", 2, die),  # the first call is for the folder's name
}


def die_at(place, step):
    """Let this process die at a place in the checkpoint of a step."""
    owner, name, count, death = PLACES[place]
    usual, left, whole = getattr(owner, name), [count], ckpt.write_checkpoint

    def deadly(*args, **kwargs):
        left[0] -= 1
        return (usual if left[0] else death)(*args, **kwargs)

    def write_and_die(run, number, *args, **kwargs):
        if number == step:
            setattr(owner, name, deadly)
        return whole(run, number, *args, **kwargs)

    ckpt.write_checkpoint = write_and_die


def train(rank, store, out, doomed=(), place=None, step=None):
    if rank in doomed:
        die_at(place, step)
    logging.basicConfig(level=logging.INFO, force=True)
    dist.init_process_group("gloo", f"file://{store}", rank=rank, world_size=2)
    world = start_world("cpu")
    standin.trainer(standin.config(out, **SETTINGS), world).fit()
    world.close()


def run_two(store, out, *death):
    """The exit statuses of two processes, and all that they said. A process whose partner dies ends by itself."""
    ended = [fork.finish() for fork in [Fork(train, rank, store, out, *death) for rank in range(2)]]
    return [status for status, _ in ended], "".join(said for _, said in ended)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "whole"
    statuses, said = run_two(out.parent / "store", out)
    assert statuses == [0, 0], said
    return out


@pytest.mark.parametrize(
    ("doomed", "place", "step", "complete"),
    [
        ({0, 1}, "in the first shard", 0, []),
        ({0}, "before the first shard", 4, [0, 2]),
        ({1}, "before the first shard", 4, [0, 2]),
        ({0}, "in the first shard", 4, [0, 2]),
        ({1}, "in the first shard", 4, [0, 2]),
        ({0, 1}, "between the two shards", 4, [0, 2]),
        ({1}, "in the second shard", 4, [0, 2]),
        ({0}, "after the second shard", 4, [0, 2]),
        ({1}, "after the second shard", 4, [0, 2]),
        ({0}, "before the state", 4, [0, 2]),
        ({0}, "before the folder is named", 4, [0, 2]),
        ({0}, "after the folder is named", 4, [0, 2, 4]),
        ({0}, "while an old checkpoint is removed", STEPS, [6, STEPS]),
    ],
)
def test_a_killed_run_ends_with_the_same_bits(doomed, place, step, complete, whole, tmp_path):
    out = tmp_path / "run"
    statuses, said = run_two(tmp_path / "store 1", out, doomed, place, step)
    assert statuses == [-signal.SIGKILL if rank in doomed else 1 for rank in range(2)], said
    found = ckpt.checkpoints(out)
    assert [path.name for path in found] == [f"step-{number:08d}" for number in complete]
    assert all(ckpt.read_tensors(path, group) for path in found for group in ("model", "optimizer", "random"))
    statuses, said = run_two(tmp_path / "store 2", out)
    assert statuses == [0, 0], said
    assert [f"going on from {path}," in said for path in found] == [path == found[-1] for path in found]
    assert differing(whole, out) == []
    losses, expected = ([(record["step"], record["loss"]) for record in read_log(run)] for run in (out, whole))
    assert losses == expected and len(losses) == STEPS
    assert sorted(path.name for path in (out / "checkpoints").iterdir()) == ["step-00000006", "step-00000008"]
