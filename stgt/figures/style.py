"""How every picture is written."""

from __future__ import annotations

from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure


def write(figure: Figure, out: Path) -> None:
    """Write a figure into a file; folders that are missing are made."""
    out.parent.mkdir(parents=True, exist_ok=True)
    FigureCanvasAgg(figure)  # no display is asked for
    figure.savefig(out, dpi=110)
