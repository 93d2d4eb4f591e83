"""Compares the last checkpoints of two runs, and copies a run with another precision."""

import json
import shutil
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


def copy_in_bf16(run: Path, folder: Path) -> Path:
    """A copy of a run that computes in bf16, as folders of a model do, which name no precision. Returns `folder`."""
    shutil.copytree(run, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"precision": "bf16"}))
    return folder
