"""Figures of one token and all patches of a clip, frame by frame: similarity, edges, attention, thresholds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize
from matplotlib.patches import ConnectionPatch
from torch import Tensor

from stgt.figures.inside import Inside, Token, pool_winners
from stgt.figures.style import ATTENTION, REFERENCE, SIMILARITY, Strip, paper, write

SHOWN = 8
"""The largest number of frames side by side"""
TINT = 0.7
"""The opacity of a map over a frame"""
STRONGEST = 6
"""The number of curves from the token to each other frame"""
THRESHOLDS = (0.1, 0.3, 0.5, 0.7, 0.9)


@dataclass(frozen=True)
class Scene:
    """A clip, the model's values for it, and the token that the figures show."""

    frames: Tensor
    """(T, S, S, 3) uint8, resized to squares as for the model, for any S"""
    inside: Inside
    token: Token

    def shown(self) -> range:
        """The frames that are drawn: all, or the SHOWN ones around the token's frame."""
        first = min(max(self.token.frame - SHOWN // 2, 0), max(len(self.frames) - SHOWN, 0))
        return range(first, min(first + SHOWN, len(self.frames)))

    def near(self, most: int) -> range:
        """The frames that the token can have edges to, at most `most` on either side."""
        reach = min(self.inside.window, most)
        return range(max(self.token.frame - reach, 0), min(self.token.frame + reach + 1, len(self.frames)))

    def reachable(self, frame: int) -> bool:
        return abs(frame - self.token.frame) <= self.inside.window

    def row(self, matrix: Tensor) -> Tensor:
        """The token's row of an (N, N) matrix, frame by frame: (T, rows, columns) with NaN where it is 0."""
        maps = self.inside.maps(matrix[self.inside.node(self.token)])
        return maps.masked_fill(maps == 0, torch.nan)

    def strip(self, rows: Sequence[str], frames: range) -> Strip:
        """A strip with one column for each of these frames."""
        bold = self.token.frame - frames[0] if self.token.frame in frames else None
        return Strip(rows, [f"frame {t}" for t in frames], self.inside.grid, bold=bold)

    def mark(self, strip: Strip, axis: Axes, frame: int) -> None:
        """Mark the token if it is in this frame."""
        if frame == self.token.frame:
            strip.mark(axis, self.token.row, self.token.column)


@paper
def draw_similarity(scene: Scene, out: Path) -> None:
    """Fig. 4: the similarity of the token to all patches, to those within the window, and to those with an edge."""
    inside, similarity = scene.inside, scene.inside.similarity()
    row = inside.maps(similarity[inside.node(scene.token)])
    weights, scale = scene.row(inside.weights()), Normalize(min(_tenth_below(row.min()), 0.0), 1.0)
    strip = scene.strip(["clip", "(a) similarity", "(b) within\nthe window", "(c) edges"], scene.shown())
    for column, t in enumerate(scene.shown()):
        clip, everywhere, band, edges = (axes[column] for axes in strip.axes)
        strip.show_frame(clip, scene.frames[t])
        strip.show_map(everywhere, row[t], SIMILARITY, scale)
        if scene.reachable(t):
            strip.show_map(band, row[t], SIMILARITY, scale)
            strip.show_frame(edges, scene.frames[t], grey=True)
            strip.show_map(edges, weights[t], SIMILARITY, scale, alpha=TINT)
        else:
            strip.show_nothing(band)
            strip.show_nothing(edges)
        for axis in (clip, everywhere, band, edges):
            scene.mark(strip, axis, t)
    strip.colour_bar(1, 3, SIMILARITY, scale, "cosine similarity, edge weight")
    write(strip.figure, out)


def _tenth_below(value: Tensor) -> float:
    return float(torch.floor(value * 10) / 10)


@paper
def draw_edges(scene: Scene, out: Path) -> None:
    """Fig. 4, 8: the patches that have an edge to the token, coloured by edge weight, with curves to the strongest."""
    edges, frames, scale = scene.row(scene.inside.weights()), scene.near(SHOWN // 2), Normalize(0, 1)
    strip = scene.strip(["", ""], frames)
    own = strip.axes[1][scene.token.frame - frames[0]]
    for clip, axis, t in zip(*strip.axes, frames, strict=True):
        strip.show_frame(clip, scene.frames[t])
        strip.show_frame(axis, scene.frames[t], grey=True)
        strip.show_map(axis, edges[t], SIMILARITY, scale, alpha=TINT)
        if axis is not own:
            _join(own, axis, scene.token, strongest_edges(edges[t], STRONGEST))
        scene.mark(strip, clip, t)
        scene.mark(strip, axis, t)
    strip.colour_bar(1, 1, SIMILARITY, scale, "edge weight")
    write(strip.figure, out)


def strongest_edges(edges: Tensor, count: int) -> list[tuple[int, int]]:
    """(Row, column) of the `count` largest weights, or of all if there are fewer.

    edges: (rows, columns) weights, NaN where there is no edge.
    """
    value, place = edges.nan_to_num(0.0).flatten().topk(min(count, edges.numel()))
    return [divmod(int(p), edges.shape[1]) for v, p in zip(value, place, strict=True) if v > 0]


def _join(own: Axes, other: Axes, token: Token, places: list[tuple[int, int]]) -> None:
    """Draw curves from the token to patches of another frame."""
    start = (token.column + 0.5, token.row + 0.5)
    bend = 0.2 if other.get_position().x0 > own.get_position().x0 else -0.2
    for row, column in places:
        end = (column + 0.5, row + 0.5)
        ends = dict(coordsA="data", coordsB="data", axesA=own, axesB=other)
        style = dict(arrowstyle="-", connectionstyle=f"arc3,rad={-bend}", color=REFERENCE, lw=0.8, alpha=0.9)
        own.figure.add_artist(ConnectionPatch(start, end, **ends, **style))
        other.plot(*end, "o", ms=2.2, mfc=REFERENCE, mec="white", mew=0.3, zorder=6)


@paper
def draw_attention(scene: Scene, attention: dict[str, Tensor], out: Path) -> None:
    """Fig. 8: the attention of the token to all patches, where 1 is uniform attention over all tokens.

    attention: (N, N) matrices by title. The scale is logarithmic, since a few patches get most of the attention.
    """
    rows = {name: scene.row(matrix) * len(matrix) for name, matrix in attention.items()}
    largest = max(float(row.nan_to_num(0.0).max()) for row in rows.values())
    scale = LogNorm(0.1, max(largest, 10.0), clip=True)
    strip = scene.strip(["clip", *rows], scene.shown())
    for column, t in enumerate(scene.shown()):
        strip.show_frame(strip.axes[0][column], scene.frames[t])
        for axes, maps in zip(strip.axes[1:], rows.values(), strict=True):
            if maps[t].isnan().all():
                strip.show_nothing(axes[column])
            else:
                strip.show_map(axes[column], maps[t].nan_to_num(0.0), ATTENTION, scale)
        for axes in strip.axes:
            scene.mark(strip, axes[column], t)
    strip.colour_bar(1, len(rows), ATTENTION, scale, "attention, times uniform", extend="min", format="%g")
    write(strip.figure, out)


@paper
def draw_thresholds(scene: Scene, out: Path) -> None:
    """Fig. 15: the token's edges at several thresholds. The model's own threshold is marked if it is one of them."""
    frames, scale = scene.near(2), Normalize(0, 1)
    edges = {h: scene.row(scene.inside.at_threshold(h)) for h in THRESHOLDS}
    titles = [f"h = {h:g}\n{int((~maps.isnan()).sum())} edges" for h, maps in edges.items()]
    own = THRESHOLDS.index(scene.inside.threshold) if scene.inside.threshold in THRESHOLDS else None
    strip = Strip([f"frame {t}" for t in frames], titles, scene.inside.grid, bold=own)
    for axes, t in zip(strip.axes, frames, strict=True):
        for axis, maps in zip(axes, edges.values(), strict=True):
            strip.show_frame(axis, scene.frames[t], grey=True)
            strip.show_map(axis, maps[t], SIMILARITY, scale, alpha=TINT)
            scene.mark(strip, axis, t)
    strip.colour_bar(0, len(frames) - 1, SIMILARITY, scale, "edge weight")
    write(strip.figure, out)


@paper
def draw_pooling(scene: Scene, out: Path) -> None:
    """Fig. 9: the patches from which max-pool sampling (Eq. 15) takes its values."""
    of_rows, of_columns = pool_winners(scene.inside.tokens)
    names = ["clip", "(a) maximum\nof each row", "(b) maximum\nof each column", "(c) both"]
    maps = (of_rows, of_columns, (of_rows + of_columns) / 2)
    strip, scale = scene.strip(names, scene.shown()), Normalize(0, float(torch.stack(maps).quantile(0.99)))
    for column, t in enumerate(scene.shown()):
        strip.show_frame(strip.axes[0][column], scene.frames[t])
        for axes, shares in zip(strip.axes[1:], maps, strict=True):
            strip.show_frame(axes[column], scene.frames[t], grey=True)
            strip.show_map(axes[column], shares[t], ATTENTION, scale, alpha=TINT)
    strip.colour_bar(1, 3, ATTENTION, scale, "share of the channels", extend="max")
    write(strip.figure, out)
