"""The page with the tables of a study, in Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from stgt.evaluation.spread import Spread
from stgt.finsta.evaluation.ablation.results import (
    Results,
    choices,
    compared,
    drops,
    hits,
    order_like_the_papers,
)
from stgt.finsta.evaluation.ablation.rows import FINSTA, STEPS, STUDIES, Row
from stgt.finsta.evaluation.matching import KINDS
from stgt.finsta.evaluation.measured import Measured
from stgt.markdown import table

BOXES, WHOLE = "boxes alone", "whole graphs"
TITLES = {
    "controls": "Finsta and its controls",
    "graphs": "Graphs with faults",
    "missing": "Missing nodes",
    "parts": "Finsta without a part",
}
"""{study: the title of its table}"""


def write_tables(results: Results) -> str:
    """The sections of the page: one for each study whose rows are all there, and then what Finsta models know."""
    parts = []
    for name, rows in STUDIES.items():
        if results.keys() >= set(rows):
            own = {row: results[row] for row in rows}
            more = f"\n\n{_drops(own)}" if name == "parts" else ""
            parts.append(_section(TITLES[name], _matching(own) + more))
    grounded = {row: found for row, found in results.items() if found[0].understanding}
    parts.append(_section("Grounding", _grounding(grounded)))
    parts.append(_section("A linear probe of motion", _probe(grounded)))
    return "\n\n".join(parts)


def _section(title: str, body: str) -> str:
    return f"## {title}\n\n{body}"


def _matching(results: Results) -> str:
    header = ["", "R@1", "R@1, video to text", *KINDS, "choices, mean"]
    header += ["R@1 against the same steps", "choices against the same steps"]
    lines = []
    for row, found in results.items():
        figures = [measured.matching.figures() for measured in found]
        cells = [str(Spread.of([each[way]["R@1"] for each in figures])) for way in ("text_to_video", "video_to_text")]
        for kind in (*KINDS, "mean"):
            right = [each["choices"][kind] for each in figures if kind in each["choices"]]
            cells.append(str(Spread.of(right)) if right else "")
        differences = [compared(found, results[STEPS], values) for values in (hits, choices)]
        cells += ["", ""] if row == STEPS else list(map(str, differences))
        lines.append([row.title, *cells])
    return table(header, lines)


def _grounding(results: Results) -> str:
    header = ["", "graphs", "object", "chance", "IoU", "R@1", "track", "IoU, whole clip", "R@1, whole clip"]
    header += ["IoU, changing box", "R@1, changing box"]
    names = ["found_iou", "found_R@1", "track", "whole_iou", "whole_R@1", "changing_iou", "changing_R@1"]
    lines = []
    for row, found in results.items():
        for view in (WHOLE, BOXES):
            cells = [_figure(found, view, "objects", name) for name in ("accuracy", "chance")]
            cells += [_figure(found, view, "predicates", name) for name in names]
            lines.append([row.title, view, *cells])
    return table(header, lines)


def _probe(results: Results) -> str:
    header = ["", "moving, growing, still", "turning or still", "vanishing or still"]
    names = ("motion", "turning", "vanishing")
    lines = [[row.title, *(_figure(found, BOXES, "probe", n) for n in names)] for row, found in results.items()]
    return table(header, lines)


def _figure(found: Sequence[Measured], view: str, part: str, name: str) -> str:
    parts = [measured.understanding.get(view, {}).get(part, {}) for measured in found]
    values = [part[name] for part in parts if name in part]
    return str(Spread.of(values)) if values else ""


def _drops(results: Results) -> str:
    rows: list[Row] = [row for row in results if row.paper is not None]
    drop = {row: str(compared(results[FINSTA], results[row], hits)) for row in rows}
    lines = [[row.title, str(Spread.of(drops(results, row))), drop[row], f"{row.paper:.1f}"] for row in rows]
    body = table(["", "drop of the score", "drop of R@1", "the paper's drop, on other data"], lines)
    if len(rows) < 2:
        return body
    mean, seeds = order_like_the_papers(results)
    each = ", ".join(f"{one:.2f}" for one in seeds) or "none"
    said = "not defined" if mean is None else f"{mean:.2f}"
    return (
        f"{body}\n\nThe score is the mean of R@1 in both directions and of the right choices. Only the order of the "
        f"rows can be compared with the paper's: Spearman's correlation is {said} for the means, and {each} for the "
        "seeds."
    )
