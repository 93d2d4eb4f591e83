"""Readers of published annotations, each of which gives scene graphs of clips."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from stgt.finsta.graphs.graph import ClipGraphs
from stgt.finsta.graphs.readers.action_genome import read_action_genome
from stgt.finsta.graphs.readers.pvsg import read_pvsg
from stgt.finsta.graphs.readers.shapes import read_shapes
from stgt.finsta.graphs.readers.star import read_star
from stgt.finsta.graphs.readers.vidvrd import read_vidvrd

READERS: dict[str, Callable[[Path, Path | None], Iterator[ClipGraphs]]] = {
    "action-genome": read_action_genome,
    "pvsg": read_pvsg,
    "shapes": read_shapes,
    "star": read_star,
    "vidor": read_vidvrd,
    "vidvrd": read_vidvrd,
}
"""{name of a format: reader of the file or folder, and of the folder of videos, which some formats need}"""
