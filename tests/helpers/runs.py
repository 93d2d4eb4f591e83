"""Compares the last checkpoints of two runs."""

from collections.abc import Sequence
from pathlib import Path

import torch

from stgt import checkpoint as ckpt


def differing(one: Path, other: Path, groups: Sequence[str] = ("model", "optimizer", "random")) -> list[str]:
    """The tensors that have other bits in the other run. Both checkpoints must be of the same step and names."""
    first, second = (ckpt.latest_checkpoint(run) for run in (one, other))
    assert ckpt.read_state(first)["step"] == ckpt.read_state(second)["step"]
    found = []
    for group in groups:
        ours, theirs = (ckpt.read_tensors(checkpoint, group) for checkpoint in (first, second))
        assert ours.keys() == theirs.keys()
        found += [f"{group} {name}" for name in ours if not torch.equal(ours[name], theirs[name])]
    return found
