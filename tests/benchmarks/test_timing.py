"""The measurements of time, of memory, and of the machine's limits."""

import itertools
import resource
import time
from types import SimpleNamespace

import pytest
import torch

from benchmarks import limits, timing
from benchmarks.memory import OutOfMemoryError, out_of_memory_is_an_error, peak_memory
from benchmarks.timing import Timing, cpu_times, rotated, wall_times

CPU = torch.device("cpu")


def test_a_timing_holds_quantiles_of_the_rounds():
    measured = Timing.of([float(second) for second in range(1, 12)])
    assert (measured.median, measured.low, measured.high, measured.rounds) == (6.0, 3.0, 9.0, 11)
    assert measured.per(2) == Timing(3.0, 1.5, 4.5, 11)


@pytest.fixture
def clock(monkeypatch):
    """A clock that only moves when a test adds seconds to ``clock.now``."""
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(time, "perf_counter", lambda: clock.now)
    return clock


def functions_of(clock, **seconds):
    """Returns functions that move the clock by the given seconds, and the list of their names in the order of calls."""
    called = []

    def make(name):
        def function():
            called.append(name)
            clock.now += seconds[name]

        return function

    return {name: make(name) for name in seconds}, called


class Benchmark:
    """The used part of pytest-benchmark's fixture. The real fixture would report at the end of the tests."""

    def pedantic(self, target, setup, rounds):
        data = []
        for _ in range(rounds):
            arguments, keywords = setup()
            begin = time.perf_counter()
            target(*arguments, **keywords)
            data.append(time.perf_counter() - begin)
        self.stats = SimpleNamespace(stats=SimpleNamespace(data=data))


def pedantic_times(functions, seconds):
    return cpu_times(Benchmark(), functions, seconds)


each_clock = pytest.mark.parametrize("measure", [pedantic_times, wall_times])


@each_clock
def test_functions_take_turns_and_each_has_its_own_times(measure, clock):
    functions, called = functions_of(clock, slow=2.0, fast=0.25, free=0.0)
    times = measure(functions, 9.0)
    # Each function is called once to see how many rounds of 2.25 s fit into 9 s, and then in each of the 4 rounds.
    assert called == ["slow", "fast", "free"] * (1 + 4)
    assert times == {name: Timing(s, s, s, 4) for name, s in (("slow", 2.0), ("fast", 0.25), ("free", 0.0))}


@each_clock
@pytest.mark.parametrize(("seconds", "rounds"), [(0.0, timing.LEAST_ROUNDS), (1e6, timing.MOST_ROUNDS)])
def test_rounds_are_neither_too_few_nor_too_many(measure, seconds, rounds, clock):
    functions, called = functions_of(clock, a=1.0, b=2.0)
    times = measure(functions, seconds)
    assert called == ["a", "b"] * (1 + rounds) and all(t.rounds == rounds for t in times.values())


@each_clock
def test_slow_rounds_are_made_twice(measure, clock):
    functions, called = functions_of(clock, a=timing.SLOW / 2, b=timing.SLOW / 2)
    measure(functions, 12.0)
    assert called == ["a", "b"] * (1 + 2)


def test_rotated_functions_are_called_in_turns():
    function = rotated([lambda: 1, lambda: 2])
    assert [function() for _ in range(4)] == [1, 2, 1, 2]


def test_peak_memory_is_the_amount_that_a_call_adds_at_its_peak():
    def call():
        large = torch.ones(25 * 2**20)  # 100 MiB
        del large
        return torch.ones(2**18)

    before = torch.ones(50 * 2**20)
    peak = peak_memory(call, CPU)
    assert 98 * 2**20 < peak < 110 * 2**20  # Linux counts in batches of pages
    del before


def test_running_out_of_memory_is_an_error_and_the_limit_is_restored():
    before = resource.getrlimit(resource.RLIMIT_DATA)
    with pytest.raises(OutOfMemoryError, match="out of memory"), out_of_memory_is_an_error(CPU):
        torch.ones(2**42)
    assert resource.getrlimit(resource.RLIMIT_DATA) == before
    with pytest.raises(RuntimeError, match="another"), out_of_memory_is_an_error(CPU):
        raise RuntimeError("another")


def test_limits_are_amounts_of_work_per_second(monkeypatch):
    """A product and a copy take two made-up seconds. For the multiply-adds, each reading of the clock adds a second."""
    ticks = itertools.count()
    monkeypatch.setattr(time, "perf_counter", lambda: float(next(ticks)))
    monkeypatch.setattr(limits, "_best", lambda function, device, repeats: 2.0)
    found = limits.measure.__wrapped__(CPU)
    assert found.gemm == {"fp32": 2048**3}
    assert found.bandwidth == 4 * 2**26  # each float32 is read and written
    threads, chains, lanes, steps = torch.get_num_threads(), 16, 16, 5_000_000
    fp32 = 2.0 * lanes * chains * steps * threads
    tiles = 2.0 * 16 * 16 * 32 * 6 * steps / 16 * threads
    bf16 = (fp32, 2 * fp32, tiles)  # without instructions for bf16, with those of vectors, and with a matrix unit
    assert found.flops["fp32"] == fp32 and found.flops["bf16"] in bf16


def test_the_best_time_is_that_of_the_fastest_call_after_the_first(clock):
    seconds = iter([0.1, 3.0, 1.0, 2.0])

    def function():
        clock.now += next(seconds)

    assert limits._best(function, CPU, 3) == pytest.approx(1.0)


def test_the_least_time_is_the_larger_of_the_times_for_arithmetic_and_bytes():
    found = limits.Limits({"fp32": 8e12}, {"fp32": 6e12}, 2e11)
    assert found.seconds(8e12, 0, "fp32") == 1.0 and found.seconds(0, 6e11, "fp32") == 3.0
    assert found.seconds(8e12, 6e11, "fp32") == 3.0
