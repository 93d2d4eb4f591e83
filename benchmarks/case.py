"""A case is one comparison that a question makes. It gets its timing function as an argument.

So the same case can run under pytest-benchmark or in a plain loop.
"""

import gc
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from benchmarks.limits import Limits
from benchmarks.rows import Row
from benchmarks.timing import Functions, Timing


@dataclass(frozen=True)
class Bench:
    """The device that a case runs on, and the function that times it."""

    device: torch.device
    quick: bool
    measure: Callable[[Functions, float], dict[str, Timing]]
    """Takes functions and seconds, and times the functions in turns for about that long. A case calls it once."""
    limits: Limits

    @property
    def seconds(self) -> float:
        """Seconds to spend on the rounds of a case."""
        return 0.5 if self.quick else 4.0


@dataclass(frozen=True)
class Case:
    name: str
    compute: Callable[[Bench], list[Row]]

    def run(self, question: str, bench: Bench) -> list[Row]:
        """Returns the rows of the case. Raises DisagreementError, and so gives no rows, if the providers disagree."""
        gc.collect()  # frees the models of the previous case
        torch._dynamo.reset()  # otherwise the compiler gives up after eight sizes of a function
        return [replace(row, question=question, case=self.name) for row in self.compute(bench)]
