"""GPU times with a stand-in for CUDA. Its clock advances by a millisecond for each queued piece of work."""

import itertools
from types import SimpleNamespace

import pytest
import torch

from benchmarks import gpu_timing, timing
from benchmarks.gpu_timing import host_seconds, queued_times


@pytest.fixture
def queue(monkeypatch):
    """The list of queued pieces of work, in order."""
    queued = []

    class Event:
        def __init__(self, enable_timing):
            assert enable_timing

        def record(self):
            self.at = len(queued)
            queued.append("event")

        def elapsed_time(self, end):
            return float(end.at - self.at - 1)

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(L2_cache_size=50))
    monkeypatch.setattr(torch.cuda, "_sleep", lambda cycles: queued.append("spin"), raising=False)
    buffer = SimpleNamespace(zero_=lambda: queued.append("flush"))
    monkeypatch.setattr(torch, "empty", lambda *size, **options: buffer)
    return queued


def test_events_surround_each_call_of_functions_that_take_turns(queue):
    functions = {"one": lambda: queue.append("1"), "three": lambda: queue.extend("333")}
    times = queued_times(functions, 0.0)
    assert times["one"].median == pytest.approx(1e-3) and times["three"].median == pytest.approx(3e-3)
    turn = ["flush", "spin", "event", "1", "event", "flush", "spin", "event", *"333", "event"]
    assert times["one"].rounds == timing.LEAST_ROUNDS
    assert queue[-len(turn) * timing.LEAST_ROUNDS :] == turn * timing.LEAST_ROUNDS


def test_the_gpu_spins_for_as_long_as_the_host_takes_to_launch(queue, monkeypatch):
    clock = itertools.count()
    monkeypatch.setattr(gpu_timing.time, "perf_counter", lambda: 0.01 * next(clock))
    assert host_seconds(lambda: None, calls=5) == pytest.approx(0.002)
    # A call that takes longer than this limit waits for the GPU.
    assert host_seconds(lambda: [next(clock) for _ in range(1000)], calls=5) == 0.02
