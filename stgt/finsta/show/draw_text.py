"""Draws the graph of a text: its words as boxes in a row, and its edges as arcs above them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.patches import FancyArrowPatch
from matplotlib.path import Path as Outline

from stgt.figures.text import put_text
from stgt.finsta.graphs.graph import TextGraph
from stgt.finsta.show.arcs import FONT, Arc, Placed, place_arcs, place_nodes
from stgt.finsta.show.colours import FAINT, INK, LINE, on

LEVEL, BOX = 0.21, 0.2
"""Inches between the levels of arcs, and the height of a word's box"""
BEND = 0.06
"""Inches over which an arc turns"""
STYLES = {
    "object": dict(boxstyle="round,pad=0.35", fc=INK, ec=INK, lw=0.8),
    "attribute": dict(boxstyle="round,pad=0.35,rounding_size=0.9", fc=FAINT, ec=LINE, lw=0.6),
    "predicate": dict(boxstyle="square,pad=0.35", fc="white", ec=INK, lw=0.9),
    "adverb": dict(boxstyle="square,pad=0.35", fc="white", ec=LINE, lw=0.8, ls=(0, (2, 1.5))),
}
"""How the box of each kind of node looks"""


class TextRow:
    """The places of a text's graph between `left` and `right`, in inches, before it is drawn."""

    def __init__(self, graph: TextGraph, left: float, right: float) -> None:
        self.nodes: Sequence[Placed] = place_nodes(graph, left, right)
        self.arcs: Sequence[Arc] = place_arcs(self.nodes, graph.edges)
        self.height = LEVEL * max((arc.level for arc in self.arcs), default=0) + BOX + 0.1
        """Inches"""
        last = self.nodes[-1] if self.nodes else None
        self.right = right if last is None else max(right, last.x + last.width / 2)

    def draw(self, axes: Axes, top: float, colours: Mapping[int, str]) -> float:
        """Draw the graph below `top`, and return the lower end of the boxes. colours: {id of an object: its colour}."""
        middle = top + self.height - BOX / 2
        for arc in self.arcs:
            self._draw_arc(axes, arc, middle - BOX / 2 - 0.01)
        for node, x, _ in self.nodes:
            put_node(axes, x, middle, node.text, node.kind, colours.get(node.id))
        return middle + BOX / 2

    def _draw_arc(self, axes: Axes, arc: Arc, base: float) -> None:
        upper, side = base - LEVEL * arc.level + 0.05, 1 if arc.x1 > arc.x0 else -1
        bend = min(BEND, abs(arc.x1 - arc.x0) / 2)
        corners = [
            (arc.x0, base), (arc.x0, upper + bend), (arc.x0, upper), (arc.x0 + side * bend, upper),
            (arc.x1 - side * bend, upper), (arc.x1, upper), (arc.x1, upper + bend), (arc.x1, base),
        ]  # fmt: skip
        turns = [1, 2, 3, 3, 2, 3, 3, 2]  # move, line, curve, curve, line, curve, curve, line
        style = dict(arrowstyle="-|>,head_length=2.2,head_width=1.1", lw=0.7, color=LINE, shrinkA=0, shrinkB=0)
        axes.add_patch(FancyArrowPatch(path=Outline(corners, turns), **style))
        label = dict(boxstyle="round,pad=0.1", fc="white", ec="none")
        put_text(
            axes, (arc.x0 + arc.x1) / 2, upper, arc.edge.type,
            ha="center", va="center", fontsize=5.5, color="#444444", bbox=label,
        )  # fmt: skip


def put_node(axes: Axes, x: float, y: float, text: str, kind: str, colour: str | None = None) -> None:
    """Draw the box of a node. An object that is about a track has the colour of the track."""
    style = dict(STYLES[kind])
    if colour is not None:
        style.update(fc=colour, ec=colour)
    ink = on(style["fc"]) if kind == "object" else INK
    put_text(axes, x, y, text, ha="center", va="center_baseline", fontsize=FONT, color=ink, bbox=style, zorder=4)
