"""Every run of a grid, trained and measured once: what is there already is read, what was interrupted goes on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from stgt.ablation.studies import Study, Variant
from stgt.config import TrainConfig
from stgt.evaluation.run import evaluate
from stgt.structure import read_json
from stgt.training.log import read_log
from stgt.training.run import train


class Measured(NamedTuple):
    """What came out of one run."""

    seed: int
    folder: Path
    links: float | None
    """Links per token at the end of training; None without a graph"""
    figures: list[dict]
    """What `stgt evaluate` found, for each threshold that was tested with"""


def measure(study: Study, base: TrainConfig, seeds: Sequence[int]) -> list[list[Measured]]:
    """Of each of a study's variants, the runs of all seeds.

    Raises StoppedError if a signal came while a run was trained; the same call goes on from there.
    """
    runs: list[list[Measured]] = [[] for _ in study.variants]
    for seed in seeds:  # outermost: an interrupted grid has whole columns of the table
        for variant, measured in zip(study.variants, runs, strict=True):
            print(f"\n{study.title}: {variant.title}, seed {seed} of {len(seeds)}", flush=True)
            measured.append(_run(variant, base, seed, study.values if study.tested else (None,)))
    return runs


def _run(variant: Variant, base: TrainConfig, seed: int, thresholds: Sequence[float | None]) -> Measured:
    config = variant.config(base, seed)
    train(config)  # does nothing for a run that has ended, but says if its settings were others
    figures = [_evaluated(config.out, threshold, config.device) for threshold in thresholds]
    return Measured(seed, config.out, read_log(config.out)[-1].get("edges_per_token"), figures)


def _evaluated(run: Path, threshold: float | None, device: str) -> dict:
    # Not evaluation.json, which `stgt evaluate` may write anew with other options.
    path = run / ("ablation.json" if threshold is None else f"ablation_h{threshold:g}.json")
    if path.exists():
        return read_json(path, dict)
    return evaluate(run, threshold=threshold, out=path, device=device)
