"""The results of all rows: means over seeds, and differences that are paired by clip."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from stgt.evaluation.intervals import Difference, paired_difference, rank_correlation
from stgt.finsta.evaluation.ablation.rows import FINSTA, Row
from stgt.finsta.evaluation.measured import Measured

Results = Mapping[Row, Sequence[Measured]]
"""For each row, the results of each seed. The host has one, which counts for every seed"""


def hits(measured: Measured) -> np.ndarray:
    """Whether each caption finds its clip first, in percent: (V,)."""
    return 100.0 * (np.array(measured.matching.text_to_video) == 1)


def choices(measured: Measured) -> np.ndarray:
    """The share of right choices for each clip, in percent: (V,), NaN for a clip without wrong captions."""
    table = np.array(list(measured.matching.choices.values()), float).reshape(-1, len(measured.videos))
    there = ~np.isnan(table)
    return np.where(there.any(0), 100 * np.nansum(table, 0) / np.maximum(there.sum(0), 1), np.nan)


def compared(
    one: Sequence[Measured], other: Sequence[Measured], values: Callable[[Measured], np.ndarray]
) -> Difference:
    """The difference of two rows: each clip counts with its mean over the seeds."""
    pair = [np.mean([values(measured) for measured in row], axis=0) for row in (one, other)]
    there = ~(np.isnan(pair[0]) | np.isnan(pair[1]))
    return paired_difference(pair[0][there], pair[1][there])


def score(measured: Measured) -> float:
    """One figure for a run, in percent: the mean of R@1 in both directions and of the right choices."""
    figures = measured.matching.figures()
    return statistics.mean(
        [figures["text_to_video"]["R@1"], figures["video_to_text"]["R@1"], figures["choices"].get("mean", 50.0)]
    )


def drops(results: Results, row: Row) -> list[float]:
    """By how much the score of Finsta falls without a part, for each seed."""
    return [score(whole) - score(part) for whole, part in zip(results[FINSTA], results[row], strict=True)]


def order_like_the_papers(results: Results) -> tuple[float | None, list[float]]:
    """Spearman's correlation of our drops and the paper's: of the means over seeds, and of each seed."""
    rows = [row for row in results if row.paper is not None]
    papers = [row.paper for row in rows if row.paper is not None]
    ours = [drops(results, row) for row in rows]
    each = [rank_correlation(seed, papers) for seed in zip(*ours, strict=True)]
    return rank_correlation([statistics.mean(seeds) for seeds in ours], papers), [r for r in each if r is not None]
