"""The results of a model, and its differences from another one, as tables."""

from __future__ import annotations

from collections.abc import Mapping

from stgt.evaluation.intervals import paired_difference
from stgt.finsta.evaluation.grounding import OVERLAP
from stgt.finsta.evaluation.matching import KINDS
from stgt.finsta.evaluation.measured import Figures, Measured
from stgt.finsta.evaluation.probe import UNSEEN
from stgt.markdown import table

PARTS = ("objects", "predicates", "probe")
ANSWERS = {"found": "", "whole": ": the whole clip", "changing": ": while the box changes"}
"""{answer to when a predicate is true: its words in a table}"""


def report(measured: Measured) -> str:
    """The figures of a model as tables."""
    figures = measured.matching.figures()
    recalls = [
        [way.replace("_", " "), *(f"{value:.1f}" for value in figures[way].values())]
        for way in ("text_to_video", "video_to_text")
    ]
    parts = [
        f"{len(measured.videos)} clips, source of the graphs: {measured.source}",
        table(["", *figures["text_to_video"]], recalls),
    ]
    if right := figures["choices"]:
        rows = [[kind, f"{right[kind]:.1f}", str(_count(measured, kind))] for kind in KINDS if kind in right]
        parts.append(
            table(["wrong captions", "right choices, %", "clips"], [*rows, ["mean", f"{right['mean']:.1f}", ""]])
        )
    return "\n\n".join([*parts, *_known(measured.understanding)])


def _known(understanding: Figures) -> list[str]:
    """The tables of objects, predicates and motions, as far as they were measured."""
    of = {part: {view: f[part] for view, f in understanding.items() if part in f} for part in PARTS}
    objects = [[view, *_cells(f, "accuracy", "chance", "frames")] for view, f in of["objects"].items()]
    predicates = [
        [f"{view}{said}", *_cells(figures, f"{answer}_iou", f"{answer}_R@1")]
        for view, figures in of["predicates"].items()
        for answer, said in ANSWERS.items()
    ]
    motions = [[view, *_cells(f, "motion", *UNSEEN)] for view, f in of["probe"].items()]
    headers = {
        "objects": ["objects of the text", "right track, %", "chance, %", "frames"],
        "predicates": ["time of predicates", "IoU, %", f"IoU >= {OVERLAP}, %"],
        "probe": ["probe of motion", "moving, growing, still", *(f"{name} or still" for name in UNSEEN)],
    }
    rows = {"objects": objects, "predicates": predicates, "probe": motions}
    return [table(headers[part], rows[part]) for part in PARTS if rows[part]]


def _cells(figures: Mapping[str, float], *names: str) -> list[str]:
    """Percentages with one digit after the point, and whole numbers. A figure that is not there is left empty."""
    found = [figures.get(name, "") for name in names]
    return [f"{value:.1f}" if isinstance(value, float) else str(value) for value in found]


def _count(measured: Measured, kind: str) -> int:
    return sum(each is not None for each in measured.matching.choices[kind])


def compare(one: Measured, other: Measured) -> str:
    """The differences of two models on the same clips in points, with the 95% intervals of a paired bootstrap."""
    rows = []
    for way in ("text_to_video", "video_to_text"):
        ours, theirs = ([100.0 * (rank == 1) for rank in getattr(each.matching, way)] for each in (one, other))
        rows.append([f"R@1, {way.replace('_', ' ')}", str(paired_difference(ours, theirs))])
    for kind in (kind for kind in KINDS if kind in one.matching.choices):
        results = (each.matching.choices[kind] for each in (one, other))
        pairs = [pair for pair in zip(*results, strict=True) if None not in pair]
        ours, theirs = ([100.0 * value for value in each] for each in zip(*pairs, strict=True))
        rows.append([f"choices, {kind}", str(paired_difference(ours, theirs))])
    return table(["", "difference [95% interval], * if 0 is outside"], rows)
