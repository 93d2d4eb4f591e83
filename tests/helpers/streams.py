"""Runs work on a GPU's streams: without a wait of the host, and captured in a CUDA graph."""

from collections.abc import Callable
from typing import TypeVar

import torch

Results = TypeVar("Results")


def assert_nothing_waits(work: Callable[[], object]) -> None:
    """Fails unless the work's launches return while the GPU is still busy with earlier work."""
    work()
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        torch.cuda._sleep(2_000_000_000)  # about a second
        done = torch.cuda.Event()
        done.record()
        work()
        assert not done.query()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def captured(work: Callable[[], Results]) -> tuple[torch.cuda.CUDAGraph, Results]:
    """A CUDA graph of the work, and the results that each replay writes anew."""
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        work()
    stream.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = work()
    return graph, results
