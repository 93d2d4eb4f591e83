"""Wall time of competing functions, interleaved so that a noisy machine is noisy for all of them alike."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Timing:
    """Seconds per call: the median of the rounds and their 20% and 80% quantiles."""

    median: float
    low: float
    high: float


def interleaved(functions: dict[str, Callable[[], object]], rounds: int, budget: float = 60.0) -> dict[str, Timing]:
    """Times each function once per round after one warm-up call; stops early when ``budget`` seconds are spent."""
    for function in functions.values():
        function()
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    begin = time.perf_counter()
    for done in range(rounds):
        for name, function in functions.items():
            start = time.perf_counter()
            function()
            seconds[name].append(time.perf_counter() - start)
        if done >= 2 and time.perf_counter() - begin > budget:
            break
    return {name: Timing(*np.quantile(times, [0.5, 0.2, 0.8]).tolist()) for name, times in seconds.items()}
