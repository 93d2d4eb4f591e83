"""Markdown tables of the mean and the spread over seeds, and of differences on the same clips."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence

import numpy as np

from stgt.data.shapes.motion import GROUP
from stgt.evaluation.intervals import Difference, paired_difference
from stgt.evaluation.spread import Spread
from stgt.markdown import table
from stgt.paper.ablation.grid import Measured
from stgt.paper.ablation.hits import Hits
from stgt.paper.ablation.studies import Study

TEXT_TO_VIDEO, VIDEO_TO_TEXT = "text_to_video", "video_to_text"
RECALLS = ("R@1", "R@5", "R@10", "mean")


def r_mean(runs: Sequence[Measured], place: int = 0) -> list[float]:
    """Each seed's R-mean, text to video and re-ranked, at one of the tested thresholds."""
    return recalls(runs, TEXT_TO_VIDEO, "mean", place)


def recalls(runs: Sequence[Measured], direction: str, name: str, place: int = 0, kind: str = "reranked") -> list[float]:
    return [run.figures[place][direction][kind][name] for run in runs]


def chance(videos: int) -> float:
    """The expected R-mean of guessing, in percent."""
    return statistics.mean(100 * min(k, videos) / videos for k in (1, 5, 10))


def study_table(study: Study, runs: Sequence[Sequence[Measured]]) -> str:
    """The table of one study, with a row for each variant."""
    header, *rows = _tested(study, runs) if study.tested else _compared(study, runs)
    return table(header, rows)


def _compared(study: Study, runs: Sequence[Sequence[Measured]]) -> list[list[str]]:
    papers = any(variant.paper is not None for variant in study.variants)
    header = ["", "R@1 by similarity", "R@1", "R@5", "R@10", "R-mean", "R-mean, video to text", "motion"]
    rows = [[*header, "edges per token"] + (["the paper's R-mean, on other data"] if papers else [])]
    for variant, measured in zip(study.variants, runs, strict=True):
        values = [recalls(measured, TEXT_TO_VIDEO, "R@1", kind="vtc")]
        values += [recalls(measured, TEXT_TO_VIDEO, name) for name in RECALLS]
        values.append(recalls(measured, VIDEO_TO_TEXT, "mean"))
        values.append([run.hits.motion for run in measured])
        edges = [run.edges for run in measured if run.edges is not None]
        cells = [variant.title, *(str(Spread.of(each)) for each in values), str(Spread.of(edges)) if edges else "none"]
        rows.append(cells + ([f"{variant.paper:.2f}" if variant.paper else ""] if papers else []))
    return rows


def _tested(study: Study, runs: Sequence[Sequence[Measured]]) -> list[list[str]]:
    rows = [["R-mean", *(f"tested at {value:g}" for value in study.values)]]
    for variant, measured in zip(study.variants, runs, strict=True):
        places = range(len(study.values))
        rows.append([variant.title, *(str(Spread.of(r_mean(measured, place))) for place in places)])
    return rows


def difference_table(study: Study, runs: Sequence[Sequence[Measured]]) -> str:
    """The differences of each variant from the first one, in points, with their 95% intervals.

    Each clip, and in the test of motion each group of clips, counts with its mean over the seeds.
    """
    base, *others = runs
    rows = [
        [variant.title, str(_difference(each, base, _found)), str(_difference(each, base, _told_apart))]
        for variant, each in zip(study.variants[1:], others, strict=True)
    ]
    return table(["", "R@1 by similarity", "motion"], rows)


def _difference(one: Sequence[Measured], other: Sequence[Measured], values: Callable[[Hits], np.ndarray]) -> Difference:
    return paired_difference(*(np.mean([values(run.hits) for run in runs], 0) for runs in (one, other)))


def _found(hits: Hits) -> np.ndarray:
    return 100.0 * np.array(hits.clips)


def _told_apart(hits: Hits) -> np.ndarray:
    return 100.0 * np.array(hits.motions).reshape(-1, GROUP).mean(1)
