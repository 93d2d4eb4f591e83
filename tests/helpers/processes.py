"""Runs functions and commands in several processes of this machine that are joined by gloo."""

import multiprocessing
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch._dynamo  # every optimizer imports it
import torch.distributed as dist

import stgt.training.run  # noqa: F401  (the parent imports both once, so that its children need not)
from helpers.commands import run_cli


def in_processes(count: int, function: Callable[..., None], *arguments: object) -> None:
    """Call function(rank, *arguments) in `count` forked processes of one process group, each with one thread."""
    with tempfile.TemporaryDirectory() as folder:
        context = multiprocessing.get_context("fork")
        processes = [
            context.Process(target=_joined, args=(rank, count, Path(folder), function, arguments))
            for rank in range(count)
        ]
        try:
            for process in processes:
                process.start()
            end = time.monotonic() + 500  # less than a test may take
            for process in processes:
                process.join(max(0.0, end - time.monotonic()))
            assert [process.exitcode for process in processes] == [0] * count
        finally:
            for process in processes:
                process.kill()


def _joined(rank: int, count: int, folder: Path, function: Callable[..., None], arguments: tuple) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=count)
    function(rank, *arguments)
    if dist.is_initialized():
        dist.destroy_process_group()


def stgt_in_processes(count: int, *words: object) -> None:
    """Run `stgt` with these arguments in `count` processes, as torchrun does."""
    in_processes(count, _command, *words)


def _command(rank: int, *words: object) -> None:
    with pytest.MonkeyPatch.context() as patch:
        assert run_cli(patch, *words) == 0
