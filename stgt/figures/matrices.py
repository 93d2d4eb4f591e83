"""Figures of all pairs of tokens of a clip: similarity, frame band, edges, attention, and the spread of weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap, LogNorm, Normalize
from matplotlib.figure import Figure
from torch import Tensor

from stgt.figures.maps import Scene
from stgt.figures.style import ATTENTION, REFERENCE, SIMILARITY, WIDTH, paper, write

PIXELS = 640
"""The largest number of pixels along a side of a matrix; in larger matrices, blocks of tokens are averaged"""


@paper
def draw_adjacency(scene: Scene, out: Path) -> None:
    """Fig. 4, 8: similarity of all pairs, the frame band, and the weights of the edges."""
    inside, similarity = scene.inside, scene.inside.similarity()
    scale = Normalize(min(float(similarity.min()), 0.0), 1.0)
    figure = Figure(figsize=(WIDTH, 2.6), layout="constrained")
    axes = figure.subplots(1, 3)
    _show(axes[0], scene, similarity, "(a) similarity", cmap=SIMILARITY, norm=scale)
    _show(axes[1], scene, inside.band().float(), "(b) frame band", cmap=ListedColormap(["0.93", "0.35"]))
    weights = inside.weights()
    title = f"(c) adjacency matrix, {100 * float((weights != 0).float().mean()):.0f}% edges"
    edges = _show(axes[2], scene, weights.masked_fill(weights == 0, torch.nan), title, cmap=SIMILARITY, norm=scale)
    figure.colorbar(edges, ax=axes, label="cosine similarity, edge weight", shrink=0.75, aspect=25, pad=0.01)
    write(figure, out)


@paper
def draw_attention_matrices(scene: Scene, attention: dict[str, Tensor], out: Path) -> None:
    """Fig. 8a, b: the attention of all tokens (rows) to all tokens, where 1 is uniform attention over all tokens.

    attention: (N, N) matrices by title.
    """
    figure = Figure(figsize=(WIDTH, 2.6), layout="constrained")
    axes, uniform = figure.subplots(1, len(attention), squeeze=False)[0], 1 / len(scene.inside.weights())
    scale = LogNorm(0.1, max(10.0, *(np.quantile(matrix, 0.999) / uniform for matrix in attention.values())))
    for axis, (name, matrix) in zip(axes, attention.items(), strict=True):
        drawn = _show(axis, scene, matrix / uniform, name.replace("\n", " "), cmap=ATTENTION, norm=scale)
        axis.set_facecolor("black")
    label = "attention, times uniform"
    figure.colorbar(drawn, ax=axes, label=label, shrink=0.75, aspect=25, pad=0.01, extend="both", format="%g")
    write(figure, out)


def _show(axis: Axes, scene: Scene, matrix: Tensor, title: str, **style):
    """Draw a matrix with a tick at each frame's middle and a mark at the token's row."""
    T, P = scene.inside.local.shape[:2]
    drawn = axis.imshow(shrink(matrix, P), extent=(0, T * P, T * P, 0), interpolation="nearest", **style)
    ticks, labels = [(t + 0.5) * P for t in range(T)], [str(t) if T <= 16 or t % 8 == 0 else "" for t in range(T)]
    axis.set(title=title, xlabel="frame", xticks=ticks, xticklabels=labels, yticks=ticks, yticklabels=labels)
    axis.autoscale(False)
    axis.tick_params(length=0)
    axis.tick_params(axis="y", pad=6)
    for line in range(1, T):
        for draw in (axis.axhline, axis.axvline):
            draw(line * P, color="white", lw=0.3, alpha=0.6)
    node = scene.inside.node(scene.token) + 0.5
    axis.plot([-0.012 * T * P], [node], ">", color=REFERENCE, ms=3.5, clip_on=False, zorder=6)
    return drawn


def shrink(matrix: Tensor, patches: int) -> np.ndarray:
    """Average square blocks of an (N, N) matrix, so that at most `PIXELS` remain along a side.

    The size of a block divides a frame's number of patches. NaN marks a missing edge and is left out of the means.
    """
    fitting = [d for d in range(1, patches + 1) if patches % d == 0 and len(matrix) // d <= PIXELS]
    block = fitting[0] if fitting else patches
    side = len(matrix) // block
    return matrix.view(side, block, side, block).nanmean((1, 3)).numpy()


@paper
def draw_weights(scene: Scene, out: Path) -> None:
    """Fig. 8, 15: the similarities of the pairs in the band, and the edges per token at each threshold."""
    inside, similarity = scene.inside, scene.inside.similarity()
    figure = Figure(figsize=(WIDTH, 2.0), layout="constrained")
    spread, kept = figure.subplots(1, 2)
    bins = np.linspace(min(np.floor(float(similarity.min()) * 10) / 10, 0.0), 1.0, 61)
    for distance, colour in zip(range(inside.window + 1), _shades(inside.window + 1), strict=True):
        values = similarity[inside.distance() == distance].numpy()
        name = {0: "same frame", 1: "next frame"}.get(distance, f"{distance} frames apart")
        share = np.full(len(values), 100 / len(values))
        spread.hist(values, bins, weights=share, histtype="step", lw=1.2, color=colour, label=name)
    spread.set(xlabel="cosine similarity", ylabel="pairs, %", title="(a) pairs within the window", xlim=bins[[0, -1]])
    band = similarity[inside.band()].numpy()
    thresholds = np.linspace(bins[0], 1.0, 201)
    node = inside.node(scene.token)
    own = similarity[node, inside.band()[node]].numpy()
    kept.plot(thresholds, reaching(band, thresholds) / len(similarity), color="black", label="mean of all tokens")
    kept.plot(thresholds, reaching(own, thresholds), color=REFERENCE, ls="--", label="marked token")
    kept.set(xlabel="threshold h", ylabel="edges per token", title="(b) edges at a threshold", ylim=(0, None))
    kept.set_xlim(thresholds[[0, -1]])
    for axis in (spread, kept):
        if inside.threshold is not None:
            axis.axvline(inside.threshold, color="0.5", lw=0.8, ls=":", label=f"h = {inside.threshold:g}, the model's")
        axis.legend(loc="best", framealpha=0.9, edgecolor="none")
        axis.spines[["top", "right"]].set_visible(False)
    write(figure, out)


def reaching(values: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """How many values are at least as large as each threshold."""
    return len(values) - np.searchsorted(np.sort(values), thresholds)


def _shades(count: int) -> list:
    return [SIMILARITY(value) for value in np.linspace(0.1, 0.75, count)]
