"""Times competing functions in turns, so that the noise of a machine affects all of them alike."""

import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

Functions = dict[str, Callable[[], object]]
LEAST_ROUNDS, MOST_ROUNDS = 3, 50
SLOW = 20.0
"""Seconds of a round from which on there are only two rounds"""


@dataclass(frozen=True)
class Timing:
    """Seconds per call: the median of the rounds and their 20% and 80% quantiles."""

    median: float
    low: float
    high: float
    rounds: int

    @classmethod
    def of(cls, seconds: list[float]) -> "Timing":
        median, low, high = np.quantile(seconds, [0.5, 0.2, 0.8]).tolist()
        return cls(median, low, high, len(seconds))

    def per(self, calls: int) -> "Timing":
        """The time of one call, if this many calls were timed together."""
        return Timing(self.median / calls, self.low / calls, self.high / calls, self.rounds)


def rounds_within(functions: Functions, seconds: float) -> int:
    """How many rounds of all functions fit into this many seconds. It calls each function once to find out."""
    begin = time.perf_counter()
    for function in functions.values():
        function()
    _wait()
    took = time.perf_counter() - begin
    return int(min(max(seconds / took, LEAST_ROUNDS if took < SLOW else 2), MOST_ROUNDS))


def cpu_times(benchmark, functions: Functions, seconds: float) -> dict[str, Timing]:
    """Wall times. benchmark: pytest-benchmark's fixture, whose rounds call the functions in turns."""
    turns, rounds = itertools.cycle(functions.values()), rounds_within(functions, seconds) * len(functions)
    benchmark.pedantic(lambda function: function(), setup=lambda: ((next(turns),), {}), rounds=rounds)
    taken = benchmark.stats.stats.data
    assert len(taken) == rounds  # otherwise times would be assigned to the wrong functions
    return {name: Timing.of(taken[i :: len(functions)]) for i, name in enumerate(functions)}


def wall_times(functions: Functions, seconds: float) -> dict[str, Timing]:
    """Wall times until the device is done, for calls that are so small that a GPU waits for the host."""
    rounds = rounds_within(functions, seconds)
    taken: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(rounds):
        for name, function in functions.items():
            begin = time.perf_counter()
            function()
            _wait()
            taken[name].append(time.perf_counter() - begin)
    return {name: Timing.of(times) for name, times in taken.items()}


def rotated(functions: list[Callable[[], object]]) -> Callable[[], object]:
    """A function that calls the given ones in turns. They do the same work on different inputs, so no cache helps."""
    turns = itertools.cycle(functions)
    return lambda: next(turns)()


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
