"""The command `stgt finsta ablate`: trains and measures the rows, and writes the tables as Markdown and JSON."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict

import torch

from stgt.files import write_json, write_text
from stgt.finsta.evaluation.ablation.grid import Grid, TestClips, measure_rows
from stgt.finsta.evaluation.ablation.page import write_tables
from stgt.finsta.evaluation.ablation.rows import Row, rows_of
from stgt.finsta.evaluation.measured import Measured
from stgt.markdown import table
from stgt.ownership import owned
from stgt.structure import field
from stgt.terminal import say
from stgt.training.log import read_log

OPTIONS = ("epochs", "align_epochs", "batch_size", "lr", "host_lr", "osc_weight", "ptc_weight", "distillation_weight")
"""Settings of post-training that are options of the command"""


def ablate(studies: Sequence[str], grid: Grid, test_clips: int) -> None:
    """Run the named studies, or all if none is named, and print their tables; see `stgt finsta ablate --help`."""
    rows = rows_of(studies)
    with owned(grid.out):
        results = measure_rows(grid, rows, TestClips(grid, test_clips))
        cost = {row: [_seconds(grid, row, seed) for seed in range(grid.seeds)] for row in rows if row.control}
        page = "\n\n".join([_head(studies, grid, test_clips), write_tables(results), _cost(cost)]) + "\n"
        print(f"\n{page}")
        write_text(grid.out / "finsta.md", page)
        write_json(grid.out / "finsta.json", _record(grid, test_clips, results, cost))
    say(f"written: {grid.out / 'finsta.md'}, {grid.out / 'finsta.json'}")


def _head(studies: Sequence[str], grid: Grid, test_clips: int) -> str:
    sizes = {"data": grid.data, "seeds": grid.seeds, "clips": grid.clips, "test-clips": test_clips}
    options = {name.replace("_", "-"): getattr(grid.training, name) for name in OPTIONS}
    named = sizes | {"grounded-clips": grid.grounded} | options
    words = [str(grid.training.run), *studies, *(f"--{name} {value}" for name, value in named.items())]
    seeds = "One seed" if grid.seeds == 1 else f"{grid.seeds} seeds: mean ± standard deviation (n−1)"
    return (
        "# Finsta on simulated clips (a reconstruction)\n\n"
        f"Written by `stgt finsta ablate {' '.join(words)}`.\n\n"
        f"- The host is post-trained on {grid.clips} simulated clips and tested on {test_clips} others. It is the same "
        "for all seeds, which differ in the order of the clips and in Finsta's first weights.\n"
        f"- {seeds}. Values are percentages. R@1 and choices are by the host's similarity alone, without graphs.\n"
        "- Choices are between the caption and one that is wrong in one thing; guessing has 50.\n"
        "- Differences are in points, with the 95% interval of a paired bootstrap over the test clips. The results of "
        "a clip are averaged over the seeds first. A star means that 0 is outside the interval.\n"
        f"- Groundings and the probe are measured on the first {min(grid.grounded, test_clips)} test clips with their "
        "true boxes and tracks. Whole graphs also have labels and relations, which say much of the answer."
    )


def _seconds(grid: Grid, row: Row, seed: int) -> float:
    """The time that the steps of a run took, without its checkpoints."""
    folder = grid.out / row.name / f"seed{seed}"
    seconds, last = 0.0, 0
    for record in read_log(folder):
        if "clips_per_s" in record:
            clips = (record["step"] - last) * grid.training.batch_size
            seconds, last = seconds + clips / field(record, "clips_per_s", float, str(folder)), record["step"]
    return seconds


def _cost(cost: Mapping[Row, Sequence[float]]) -> str:
    lines = [[row.title, f"{statistics.mean(seconds):.0f}"] for row, seconds in cost.items()]
    return "## Cost\n\n" + table(["", "seconds of post-training"], lines)


def _record(
    grid: Grid, test_clips: int, results: Mapping[Row, Sequence[Measured]], cost: Mapping[Row, Sequence[float]]
) -> dict:
    settings = json.loads(json.dumps(asdict(grid), default=str))
    rows = [
        {
            **row._asdict(),
            "seconds": list(cost.get(row, [])),
            "seeds": [{"figures": m.matching.figures(), "understanding": m.understanding} for m in found],
        }
        for row, found in results.items()
    ]
    return {"settings": settings, "test_clips": test_clips, "torch": torch.__version__, "rows": rows}
