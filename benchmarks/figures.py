"""The figures of the report: one for each question that has curves or a breakdown."""

from collections.abc import Callable
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from benchmarks.rows import Results, Row

OURS = "stgt_kernels"


def draw(results: dict[str, Results], folder: Path) -> dict[str, Path]:
    """Draws the figures of the questions that have results into a folder. Returns each question's file."""
    drawn = {}
    for question, (make, height) in FIGURES.items():
        if question in results and any(row.median for row in results[question].rows):
            figure, axes = plt.subplots(1, 2, figsize=(10, height), layout="constrained")
            make(axes, results[question].rows)
            drawn[question] = folder / f"{question}.png"
            figure.savefig(drawn[question], dpi=110, metadata={"Software": None})
            plt.close(figure)
    return drawn


def frames(axes: tuple[Axes, Axes], rows: list[Row]) -> None:
    """Draws time and memory against frames. A cross marks the length at which a provider runs out of memory."""
    rows = [row for row in rows if " in turns" not in row.case]
    curves(axes[0], rows, "T", lambda row: row.median * 1e3)
    curves(axes[1], rows, "T", lambda row: row.peak_memory and row.peak_memory / 2**30)
    for ax, label in zip(axes, ("ms, forward + backward", "GiB beside the inputs"), strict=True):
        ax.set(xscale="log", yscale="log", xlabel="frames", ylabel=label)
        ticks = sorted({row.shape["T"] for row in rows})
        ax.set_xticks(ticks, [str(t) for t in ticks])
        ax.minorticks_off()
    first: dict[str, int] = {}
    for row in rows:
        if row.missing == "out of memory":
            first[row.provider] = min(row.shape["T"], first.get(row.provider, row.shape["T"]))
    for provider, T in first.items():
        for ax in axes:
            top = ax.get_ylim()[1]
            ax.plot([T], [top], "x", color="black", clip_on=False)
            text = f"{provider}:\nout of memory"
            ax.annotate(text, (T, top), (-8, 0), textcoords="offset points", fontsize=7, ha="right", va="top")
    axes[0].legend(fontsize=8)


def density(axes: tuple[Axes, Axes], rows: list[Row]) -> None:
    """Draws our time against the threshold, and the shares of the band's pairs and tiles that still have an edge."""
    ours = [row for row in rows if row.provider.startswith(OURS) and row.median]
    real = [row for row in ours if row.case.startswith("real")]
    curves(axes[0], real, "threshold", lambda row: row.median * 1e3)
    for row in ours:
        if row.case.startswith("noise"):
            axes[0].axhline(row.median * 1e3, ls=":", color="grey", label=f"{row.provider}, Gaussian noise, h=0.5")
    axes[0].set(xlabel="threshold", ylabel="ms, forward", ylim=(0, None))
    axes[0].legend(fontsize=8)
    points = sorted({(row.shape["threshold"], row.edge_density, row.live_tiles) for row in real})
    for i, label in ((1, "edges"), (2, "64 x 64 tiles with an edge")):
        axes[1].plot([p[0] for p in points], [p[i] for p in points], marker="o", markersize=3, label=label)
    axes[1].set(xlabel="threshold", ylabel="share of the band", ylim=(0, 1.05))
    axes[1].legend(fontsize=8)


def training_step(axes: tuple[Axes, Axes], rows: list[Row]) -> None:
    """Draws the time per clip, split into the parts of a step, relative to the slowest provider of each case."""
    rows = [row for row in rows if row.median]
    parts = list(dict.fromkeys(part for row in rows for part in row.parts))
    slowest: dict[str, float] = {}
    for row in rows:
        slowest[row.case] = max(slowest.get(row.case, 0.0), row.median / row.shape["B"])
    for ax, setting in zip(axes, ("tower in the loop", "cached features"), strict=True):
        here = [row for row in rows if row.case.endswith(setting)]
        labels = [f"{row.case.partition(',')[0]}\n{row.provider}" for row in here]
        left = [0.0] * len(here)
        for part in parts:
            times = [row.parts.get(part, 0) * row.median / row.shape["B"] / slowest[row.case] for row in here]
            ax.barh(labels, times, left=left, label=part)
            left = [a + b for a, b in zip(left, times, strict=True)]
        ax.set(title=setting, xlabel="time per clip, of the slowest", xlim=(0, 1))
        ax.tick_params(labelsize=7)
        ax.invert_yaxis()
    axes[0].figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=7)


def curves(ax: Axes, rows: list[Row], x: str, y: Callable[[Row], float | None]) -> None:
    for provider in dict.fromkeys(row.provider for row in rows):
        points = sorted((row.shape[x], y(row)) for row in rows if row.provider == provider and row.median and y(row))
        if points:
            width = 2.5 if provider.startswith(OURS) else 1.2
            ax.plot(*zip(*points, strict=True), marker="o", markersize=3, linewidth=width, label=provider)


FIGURES = {"frames": (frames, 3.6), "density": (density, 3.6), "training_step": (training_step, 4.2)}
