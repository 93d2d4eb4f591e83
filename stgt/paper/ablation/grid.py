"""Trains and evaluates every run of a grid once. Finished runs are read, and interrupted runs are resumed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from stgt.config import TrainConfig
from stgt.evaluation.options import Evaluation
from stgt.evaluation.run import evaluate
from stgt.paper.ablation.hits import Hits, hits
from stgt.paper.ablation.studies import Study, Variant
from stgt.structure import read_json
from stgt.training.log import last_step
from stgt.training.run import train

MOTIONS = "motions"
"""The folder of the clips that only motion tells apart, beside the runs"""


class Measured(NamedTuple):
    """The results of one run."""

    seed: int
    folder: Path
    edges: float | None
    """Edges per token at the end of training; None without a graph"""
    figures: list[dict]
    """The results of `stgt evaluate` for each threshold that was tested"""
    hits: Hits


def measure(study: Study, base: TrainConfig, seeds: Sequence[int]) -> list[list[Measured]]:
    """The runs of all seeds for each variant of a study.

    Raises StoppedError if a signal stops the training of a run. The same call then resumes from there.
    """
    runs: list[list[Measured]] = [[] for _ in study.variants]
    for seed in seeds:  # seeds come first, so that an interrupted grid has every variant
        for variant, measured in zip(study.variants, runs, strict=True):
            print(f"\n{study.title}: {variant.title}, seed {seed} of {len(seeds)}", flush=True)
            measured.append(_run(variant, base, seed, study.values if study.tested else (None,)))
    return runs


def _run(variant: Variant, base: TrainConfig, seed: int, thresholds: Sequence[float | None]) -> Measured:
    config = variant.config(base, seed)
    train(config)  # only checks the settings if the run has ended
    figures = [_evaluated(config.out, threshold, config.device) for threshold in thresholds]
    found = hits(config.out, base.out / MOTIONS, config.device)
    return Measured(seed, config.out, last_step(config.out).get("edges_per_token"), figures, found)


def _evaluated(run: Path, threshold: float | None, device: str) -> dict:
    # The file is not evaluation.json, which `stgt evaluate` may overwrite with other options.
    path = run / ("ablation.json" if threshold is None else f"ablation_h{threshold:g}.json")
    if path.exists():
        return read_json(path, dict)
    return evaluate(Evaluation(run, threshold=threshold, out=path, device=device))
