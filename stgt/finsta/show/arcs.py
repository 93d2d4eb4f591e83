"""The places of a text's nodes in a row, and of the edges between them as arcs above the row."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from typing import NamedTuple

from stgt.finsta.graphs.graph import TextEdge, TextGraph, TextNode

FONT = 7
"""Points"""
LETTER = 0.0078
"""Inches that a letter is wide for each point of its size, on average"""
PADDING, LEAST_GAP, LARGEST_GAP = 0.12, 0.12, 0.5
"""Inches"""


class Placed(NamedTuple):
    """A node, with the middle and the width of its box in inches."""

    node: TextNode
    x: float
    width: float


class Arc(NamedTuple):
    """An edge from x0 to x1, in inches. Arcs of a higher level go over those of a lower one."""

    edge: TextEdge
    x0: float
    x1: float
    level: int


def text_width(text: str, size: float = FONT) -> float:
    """About how wide a line of text is, in inches. Letters of East Asia are twice as wide as others."""
    return LETTER * size * sum(2 if unicodedata.east_asian_width(letter) in "WF" else 1 for letter in text)


def place_nodes(graph: TextGraph, left: float, right: float) -> list[Placed]:
    """The nodes from left to right in the order of their words, spread over the room from `left` to `right`.

    They go beyond `right` if there is not enough room.
    """
    nodes = sorted(graph.nodes, key=lambda node: (node.span, node.id))
    widths = [text_width(node.text) + PADDING for node in nodes]
    spare = right - left - sum(widths)
    gap = min(max(spare / max(len(nodes) - 1, 1), LEAST_GAP), LARGEST_GAP)
    x = left + max(0.0, (spare - gap * (len(nodes) - 1)) / 2)
    placed = []
    for node, width in zip(nodes, widths, strict=True):
        placed.append(Placed(node, x + width / 2, width))
        x += width + gap
    return placed


def place_arcs(placed: Sequence[Placed], edges: Sequence[TextEdge]) -> list[Arc]:
    """The arcs of all edges. An arc lies above every shorter arc that it covers or crosses.

    The ends of a node's arcs are apart: those of longer arcs lie nearer to its middle, so that they cross no others.
    """
    rank = {each.node.id: number for number, each in enumerate(placed)}
    reach = [sorted((rank[edge.source], rank[edge.target])) for edge in edges]
    levels: dict[int, int] = {}
    for number in sorted(range(len(edges)), key=lambda number: (reach[number][1] - reach[number][0], number)):
        low, high = reach[number]
        below = [level for other, level in levels.items() if reach[other][0] < high and low < reach[other][1]]
        levels[number] = 1 + max(below, default=0)
    ends: dict[tuple[int, int], float] = {}
    for place, each in enumerate(placed):
        for side, numbers in (
            (1, [number for number in levels if reach[number][0] == place < reach[number][1]]),
            (-1, [number for number in levels if reach[number][0] < place == reach[number][1]]),
        ):
            step = min(0.09, each.width / 2 / (len(numbers) + 1))
            for order, number in enumerate(sorted(numbers, key=lambda number: -levels[number])):
                ends[number, place] = each.x + side * step * (order + 0.7)
    return [
        Arc(edge, ends.get((n, rank[edge.source]), 0.0), ends.get((n, rank[edge.target]), 0.0), levels[n])
        for n, edge in enumerate(edges)
        if edge.source != edge.target
    ]
