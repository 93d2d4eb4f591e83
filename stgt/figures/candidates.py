"""Recall against the number of candidates that the matching head re-ranks (paper Fig. 12)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from stgt.evaluation.retrieval import RECALLS, Figures
from stgt.figures.style import write


def draw_candidates(figures: Mapping[str, Mapping[str, Figures]], out: Path) -> None:
    """Draw recall against the number of candidates, both directions side by side.

    figures: of each number, in ascending order, as a string, the figures of each direction. 0, where it is given, is
    similarity alone: a dashed line to measure the others by.
    """
    counts = [int(count) for count in figures if int(count)]
    canvas = Figure(figsize=(7.6, 3.2), layout="constrained")
    axes = canvas.subplots(1, 2, sharey=True)
    for axis, way in zip(axes, ("text_to_video", "video_to_text"), strict=True):
        for number, name in enumerate(RECALLS):
            values = [figures[str(count)][way][name] for count in counts]
            axis.plot(counts, values, marker="o", markersize=4, color=f"C{number}", label=name)
            if "0" in figures:
                axis.axhline(figures["0"][way][name], color=f"C{number}", linestyle="--", linewidth=0.8)
        axis.set_xscale("log", base=2)
        axis.xaxis.set_major_locator(FixedLocator(counts))
        axis.xaxis.set_minor_locator(NullLocator())
        axis.xaxis.set_major_formatter("{x:.0f}")
        axis.set_title(way.replace("_", " "), fontsize=10)
        axis.set_xlabel("candidates re-ranked")
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("recall, %")
    canvas.legend(*axes[0].get_legend_handles_labels(), loc="outside right center", fontsize=9)
    write(canvas, out)
