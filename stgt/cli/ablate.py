"""`stgt ablate`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import tyro


def ablate(
    studies: tyro.conf.Positional[tuple[Literal["table2", "table3", "fig7", "forms"], ...]] = (),
    seeds: int = 3,
    epochs: int = 10,
    clips: int = 1500,
    test_clips: int = 100,
    full: bool = False,
    out: Path = Path("runs/ablations"),
    device: str = "auto",
) -> None:
    """Repeat the paper's ablations on simulated clips. The same command goes on after an interruption.

    Args:
        studies: The paper's Table 2 (graph, weights), Table 3 (CSAL) or Fig. 7 (h, gamma), or the forms of the graph
            layer; all if none is given.
        seeds: Number of runs of each variant.
        epochs: Number of epochs of each run.
        clips: Simulated clips to train on.
        test_clips: Simulated clips to test on.
        full: Train models of the quickstart's whole size, which takes three times as long.
        out: Folder for the clips, the runs, ablations.md, ablations.json and ablations.png.
        device: The device that the model runs on; "auto" is a GPU where there is one.
    """
    from stgt.paper.ablation.run import Size, ablate

    ablate(studies, Size(seeds, epochs, clips, test_clips, full), out, device)
