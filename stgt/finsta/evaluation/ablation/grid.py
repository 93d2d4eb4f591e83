"""Trains and measures every row once for each seed. Finished runs are read, and interrupted runs are resumed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from stgt.finsta.evaluation.ablation.graphs import graphs_file, true_graphs
from stgt.finsta.evaluation.ablation.rows import Row
from stgt.finsta.evaluation.clips import Frames
from stgt.finsta.evaluation.matching import read_negatives
from stgt.finsta.evaluation.measure import measure
from stgt.finsta.evaluation.measured import Measured
from stgt.finsta.hosts.folders import open_host
from stgt.finsta.training.config import PostTraining
from stgt.finsta.training.run import post_train, require_same_run
from stgt.terminal import say

BATCH = 250
"""Test clips in a batch. All captions are encoded again for each batch"""


@dataclass(frozen=True)
class Grid:
    """The settings that all runs of a study share."""

    training: PostTraining
    """The settings of every run, apart from its graphs, folder, control, parts and seed. `run` is the host"""
    data: Path
    """Folder of clips that `stgt data shapes --kind phases` wrote"""
    out: Path
    seeds: int
    clips: int
    """Number of clips to learn from"""
    grounded: int
    """Number of test clips on which Finsta's groundings are measured"""

    def run(self, row: Row, seed: int) -> PostTraining:
        """The post-training of a row that has one. Its folder is named after the row and the seed."""
        assert row.control is not None
        finsta = self.training.finsta
        return replace(
            self.training,
            graphs=graphs_file(row.graphs, self.out / f"graphs-{self.clips}", self.data, self.clips),
            out=self.out / row.name / f"seed{seed}",
            control=row.control,
            finsta=finsta if row.without is None else replace(finsta, **{row.without: False}),
            seed=seed,
        )


class TestClips:
    """The clips that all runs are measured on. Their frames are decoded once, and stay in memory."""

    def __init__(self, grid: Grid, count: int) -> None:
        self.clips = true_graphs(grid.data, "test", count)
        self.negatives = read_negatives(grid.data / "scenes.json")
        self._videos = grid.data / "videos"
        self._frames: list[tuple[Tensor, Tensor]] = []

    def measure(self, folder: Path, grid: Grid) -> Measured:
        """The results of the host in a folder. All hosts take the same frames."""
        host = open_host(folder, device=grid.training.device)
        self._frames = self._frames or list(Frames(host, self.clips, self._videos, BATCH))
        return measure(folder, host, self.clips, self._frames, self.negatives, grid.grounded)


def measure_rows(grid: Grid, rows: Sequence[Row], tests: TestClips) -> dict[Row, list[Measured]]:
    """The results of all rows for each seed; the host as it is has one result.

    Raises StoppedError if a signal stops a run. The same call then goes on from there.
    """
    found: dict[Row, list[Measured]] = {row: [] for row in rows}
    for seed in range(grid.seeds):  # seeds come first, so that an interrupted study has every row
        for row in rows:
            if row.control is None and seed:
                continue
            say("", f"{row.title}, seed {seed + 1} of {grid.seeds}")
            found[row].append(_measured(grid, row, seed, tests))
    return found


def _measured(grid: Grid, row: Row, seed: int, tests: TestClips) -> Measured:
    # The file is not the one of `stgt finsta evaluate`, which may be overwritten with other options.
    path = grid.out / row.name / f"seed{seed}-{len(tests.clips)}-{grid.grounded}.json"
    training = None if row.control is None else grid.run(row, seed)
    if path.exists():
        if training is not None:
            require_same_run(training)
        return Measured.read(path)
    if training is not None:
        post_train(training)
    measured = tests.measure(training.out if training else grid.training.run, grid)
    measured.write(path)
    return measured
