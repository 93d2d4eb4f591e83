"""How sure a difference between two models is, from a paired bootstrap over clips."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

DRAWS = 10_000
LEVEL = 0.95
_AT_ONCE = 500
"""Draws that are in memory at a time"""


class Difference(NamedTuple):
    """The mean of a difference over clips, and the interval that holds it with the probability LEVEL."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        """ "+1.2 [0.3, 2.1]", with a star if the interval leaves 0 out."""
        return f"{self.mean:+.1f} [{self.low:.1f}, {self.high:.1f}]" + (" *" if self.is_clear else "")

    @property
    def is_clear(self) -> bool:
        """Whether the interval leaves 0 out."""
        return self.low > 0 or self.high < 0


def paired_difference(one: Sequence[float], other: Sequence[float], *, seed: int = 0) -> Difference:
    """The difference of two models' results for the same clips, `one` minus `other`.

    The interval holds the middle 95% of the means of DRAWS samples of as many clips, drawn with replacement.
    Raises ValueError for lists of different lengths, and for empty ones.
    """
    if len(one) != len(other) or not len(one):
        raise ValueError(f"there are {len(one)} and {len(other)} results, expected equal numbers of at least one")
    each = np.asarray(one, float) - np.asarray(other, float)
    rng = np.random.default_rng(seed)
    means = [each[rng.integers(len(each), size=(_AT_ONCE, len(each)))].mean(1) for _ in range(DRAWS // _AT_ONCE)]
    low, high = np.quantile(np.concatenate(means), ((1 - LEVEL) / 2, (1 + LEVEL) / 2))
    return Difference(float(each.mean()), float(low), float(high))


def rank_correlation(one: Sequence[float], other: Sequence[float]) -> float | None:
    """Spearman's correlation of the ranks of two lists; None if one of them has equal values only."""
    if len(one) != len(other) or len(one) < 2:
        raise ValueError(f"there are {len(one)} and {len(other)} values, expected equal numbers of at least two")
    ranks = [_ranks(np.asarray(values, float)) for values in (one, other)]
    if any(np.ptp(each) == 0 for each in ranks):
        return None
    return float(np.corrcoef(*ranks)[0, 1])


def _ranks(values: np.ndarray) -> np.ndarray:
    """The rank of each value, from 0. Equal values have the mean of their ranks."""
    below, equal = (values[:, None] > values).sum(1), (values[:, None] == values).sum(1)
    return below + (equal - 1) / 2
