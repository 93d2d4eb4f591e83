"""A plot of the R-mean of every variant with its spread over seeds. Each study has a panel."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from stgt.evaluation.spread import Spread
from stgt.figures.style import RIGHT, WIDTH, paper, write
from stgt.paper.ablation.grid import Measured
from stgt.paper.ablation.studies import Study
from stgt.paper.ablation.table import chance, r_mean

Results = Sequence[tuple[Study, Sequence[Sequence[Measured]]]]


@paper
def draw(results: Results, out: Path) -> None:
    """Write the picture. A dot is a seed, and a bar is one standard deviation to each side of the mean."""
    figure = Figure(figsize=(WIDTH, sum(map(_height, results))), layout="constrained")
    panels = figure.subplots(len(results), squeeze=False, height_ratios=list(map(_height, results)))[:, 0]
    for axes, (study, runs) in zip(panels, results, strict=True):
        guess = chance(runs[0][0].figures[0]["split"]["videos"])
        if study.axis is None:
            _rows(axes, study, runs)
            axes.axvline(guess, color="grey", linestyle=":", label="chance")
            axes.set_xlabel("R-mean, text to video (%)")
        else:
            _curves(axes, study, runs)
            axes.axhline(guess, color="grey", linestyle=":", label="chance")
            axes.set(xlabel=study.axis, ylabel="R-mean, text to video (%)", xticks=study.values)
        axes.set_title(study.title, loc="left")
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    write(figure, out)


def _height(result: tuple[Study, Sequence[Sequence[Measured]]]) -> float:
    """The height of a panel in inches."""
    study, _ = result
    return 0.6 + 0.22 * len(study.variants) if study.axis is None else 2.2


def _rows(axes: Axes, study: Study, runs: Sequence[Sequence[Measured]]) -> None:
    for row, measured in enumerate(runs):
        seeds = r_mean(measured)
        spread = Spread.of(seeds)
        axes.errorbar(spread.mean, row, xerr=spread.std, fmt="D", color=RIGHT, markersize=4, capsize=2)
        axes.plot(seeds, [row] * len(seeds), "o", color="black", alpha=0.4, markersize=2)
    axes.set_yticks(range(len(runs)), [variant.title for variant in study.variants])
    axes.invert_yaxis()
    axes.set_ylim(len(runs) - 0.5, -0.5)


def _curves(axes: Axes, study: Study, runs: Sequence[Sequence[Measured]]) -> None:
    if study.tested:
        places = range(len(study.values))
        curves = {v.title: [r_mean(each, i) for i in places] for v, each in zip(study.variants, runs, strict=True)}
    else:
        curves = {"STGT": [r_mean(each) for each in runs]}
    colours = colormaps["viridis"].resampled(len(curves) + 1).colors
    for (title, seeds), colour in zip(curves.items(), colours, strict=False):
        spreads = [Spread.of(each) for each in seeds]
        stds = [spread.std or 0.0 for spread in spreads]
        means = [spread.mean for spread in spreads]
        axes.errorbar(study.values, means, yerr=stds, fmt="o-", color=colour, markersize=2.5, capsize=2, label=title)
