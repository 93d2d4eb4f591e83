"""Clocks, memory, and the machine's limits."""

import resource
import time
from types import SimpleNamespace

import pytest
import torch

from benchmarks import limits, timing
from benchmarks.memory import OutOfMemoryError, out_of_memory_is_an_error, peak_memory
from benchmarks.timing import Timing, cpu_times, rotated, wall_times

CPU = torch.device("cpu")


def test_quantiles_of_the_rounds():
    measured = Timing.of([float(second) for second in range(1, 12)])
    assert (measured.median, measured.low, measured.high, measured.rounds) == (6.0, 3.0, 9.0, 11)
    assert measured.per(2) == Timing(3.0, 1.5, 4.5, 11)


class Benchmark:
    """Of pytest-benchmark's fixture what is used of it; the real one reports at the end of the tests."""

    def pedantic(self, target, setup, rounds):
        data = []
        for _ in range(rounds):
            arguments, keywords = setup()
            begin = time.perf_counter()
            target(*arguments, **keywords)
            data.append(time.perf_counter() - begin)
        self.stats = SimpleNamespace(stats=SimpleNamespace(data=data))


def test_functions_take_turns():
    called = []
    functions = {name: lambda name=name: called.append(name) for name in "abc"}
    times = cpu_times(Benchmark(), functions, 0.0)
    assert "".join(called) == "abc" * (1 + timing.LEAST_ROUNDS)
    assert list(times) == ["a", "b", "c"] and all(t.rounds == timing.LEAST_ROUNDS for t in times.values())
    assert all(0 <= t.low <= t.median <= t.high < 1 for t in times.values())


def test_times_are_of_the_function_whose_turn_it_was():
    times = cpu_times(Benchmark(), {"slow": lambda: time.sleep(0.02), "fast": lambda: None}, 0.1)
    assert times["slow"].low >= 0.02 > times["fast"].high


def test_wall_times_are_taken_in_turns():
    times = wall_times({"slow": lambda: time.sleep(0.02), "fast": lambda: None}, 0.1)
    assert times["slow"].low >= 0.02 > times["fast"].high and times["fast"].rounds == times["slow"].rounds >= 3


def test_rotation_gives_each_its_turn():
    function = rotated([lambda: 1, lambda: 2])
    assert [function() for _ in range(4)] == [1, 2, 1, 2]


def test_memory_is_what_a_call_adds_at_its_peak():
    def call():
        large = torch.ones(25 * 2**20)  # 100 MiB
        del large
        return torch.ones(2**18)

    before = torch.ones(50 * 2**20)
    peak = peak_memory(call, CPU)
    assert 98 * 2**20 < peak < 110 * 2**20  # Linux counts in batches of pages
    del before


def test_what_does_not_fit_is_an_error_and_the_limit_is_lifted_again():
    before = resource.getrlimit(resource.RLIMIT_DATA)
    with pytest.raises(OutOfMemoryError, match="out of memory"), out_of_memory_is_an_error(CPU):
        torch.ones(2**42)
    assert resource.getrlimit(resource.RLIMIT_DATA) == before
    with pytest.raises(RuntimeError, match="another"), out_of_memory_is_an_error(CPU):
        raise RuntimeError("another")


def test_the_limit_is_at_least_what_a_matrix_product_reaches():
    found = limits.measure(CPU)
    assert found.flops["fp32"] > 0.8 * found.gemm["fp32"] > 0 and found.bandwidth > 1e9
    assert found.seconds(found.flops["fp32"], 0, "fp32") == pytest.approx(1.0)
    assert found.seconds(0, 3 * found.bandwidth, "fp32") == pytest.approx(3.0)
