"""A picture of the clips that a search finds for a sentence."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure
from torch import Tensor

from stgt.figures.style import write
from stgt.figures.text import put_text, put_title
from stgt.terminal import printable


def draw_results(sentence: str, results: Sequence[tuple[str, float, Tensor]], out: Path) -> None:
    """Write a picture of the clips that answer a sentence, best first: (label, score, frames (T, S, S, 3) uint8)."""
    shown = [frames[:: max(1, len(frames) // 4)][:4] for _, _, frames in results]
    columns = max(len(frames) for frames in shown)
    figure = Figure(figsize=(1.5 * columns + 2.2, 1.5 * len(results) + 0.6), layout="constrained")
    axes = figure.subplots(len(results), columns, squeeze=False)
    for place, ((label, score, _), frames, row) in enumerate(zip(results, shown, axes, strict=True), start=1):
        for axis in row:
            axis.set_axis_off()
        for axis, frame in zip(row, frames, strict=False):
            axis.imshow(frame.numpy())
        style = dict(transform=row[0].transAxes, ha="right", va="center", fontsize=9)
        put_text(row[0], -0.08, 0.5, f"{place}.  {score:.3f}", label, **style)
    put_title(figure, f"“{textwrap.shorten(printable(sentence), 120, placeholder=' …')}”", fontsize=12)
    write(figure, out)
