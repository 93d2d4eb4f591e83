"""A case: one comparison of a question. What times it is handed to it, so that pytest or a plain loop can run it."""

import gc
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from benchmarks.limits import Limits
from benchmarks.rows import Row
from benchmarks.timing import Functions, Timing


@dataclass(frozen=True)
class Bench:
    """Where a case runs, and what times it."""

    device: torch.device
    quick: bool
    measure: Callable[[Functions, float], dict[str, Timing]]
    """Times functions in turns, for about so many seconds; once per case"""
    limits: Limits

    @property
    def seconds(self) -> float:
        """To spend on the rounds of a case."""
        return 0.5 if self.quick else 4.0


@dataclass(frozen=True)
class Case:
    name: str
    compute: Callable[[Bench], list[Row]]

    def run(self, question: str, bench: Bench) -> list[Row]:
        """Raises DisagreementError, and gives no row at all, where providers disagree."""
        gc.collect()  # models of the case before
        torch._dynamo.reset()  # or the compiler gives up after eight sizes of the same function, and runs it eagerly
        return [replace(row, question=question, case=self.name) for row in self.compute(bench)]
