"""The rows of the tables: the host, the controls without which no gain counts, Finsta, and Finsta without a part."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from stgt.finsta.training.config import Control


class Row(NamedTuple):
    """One kind of post-training, which is run with several seeds."""

    name: str
    """Name of its folder"""
    title: str
    control: Control | None = None
    """The objective of the post-training; None for the host as it is"""
    graphs: str = "true"
    """The file of graphs that it learns from: "true", "noisy", "found", or "missing25" for 25% of the nodes missing"""
    without: str | None = None
    """The switch of FinstaConfig that is off"""
    paper: float | None = None
    """By how much the paper's metrics fall on average without the part, in points"""


HOST = Row("host", "the host as it is")
STEPS = Row("steps", "the same steps, without graphs", "steps")
FINSTA = Row("finsta", "Finsta, true graphs", "finsta")
STUDIES: dict[str, tuple[Row, ...]] = {
    "controls": (
        HOST,
        STEPS,
        Row("labels", "labels as an auxiliary loss", "labels"),
        Row("shuffled", "Finsta, graphs of other clips", "shuffled"),
        FINSTA,
        Row("no-labels", "Finsta, true graphs without the words of labels", "finsta", without="labels"),
    ),
    "graphs": (
        HOST,
        STEPS,
        FINSTA,
        Row("noisy", "Finsta, noisy graphs", "finsta", graphs="noisy"),
        Row("found", "Finsta, found graphs", "finsta", graphs="found"),
    ),
    "missing": (
        HOST,
        STEPS,
        FINSTA,
        *(
            Row(f"missing{share}", f"{share}% of the nodes missing", "finsta", graphs=f"missing{share}")
            for share in (10, 25, 50)
        ),
    ),
    "parts": (
        HOST,
        STEPS,
        FINSTA,
        *(
            Row(f"no-{switch}", f"without {title}", "finsta", without=switch, paper=drop)
            for switch, title, drop in (
                ("ptc", "the predicate-centred contrast (PTC)", 7.9),
                ("osc", "the object-centred contrast (OSC)", 5.9),
                ("stgd", "the Gaussian differential layer (STGD)", 5.1),
                ("temporal_coref", "edges of temporal coreference", 3.7),
                ("adverbs", "nodes of adverbs", 2.9),
                ("crossmodal_coref", "edges of cross-modal coreference", 2.4),
            )
        ),
    ),
}


def rows_of(studies: Sequence[str]) -> list[Row]:
    """The rows of the named studies, or of all if none is named, each once."""
    return list(dict.fromkeys(row for name in studies or STUDIES for row in STUDIES[name]))
