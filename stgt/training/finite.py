"""Losses and gradient norms have to be finite. A run stops at the first that is not, and keeps nothing of its step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from stgt import checkpoint as ckpt
from stgt.distributed import World
from stgt.integrity import NonFiniteError


class Noted(NamedTuple):
    """A value that a step has computed, and what it is."""

    what: str
    value: torch.Tensor
    step: int
    paths: tuple[str, ...]
    """The files that the step has read so far"""


class FiniteValues:
    """The values of the steps since they were last looked at.

    On a CPU, every value is looked at when it is noted. On another device, the host would have to wait for the value.
    So the values are kept there until `require`, which comes before anything of their steps is kept.
    """

    def __init__(self, world: World, run: Path, again: str) -> None:
        """again: the end of the error, which tells what starts another run from the checkpoints in `run`."""
        self.world, self.run, self.again = world, run, again
        self.at_once = world.device.type == "cpu"
        self._noted: list[Noted] = []

    def note(self, what: str, value: torch.Tensor, step: int, paths: Sequence[str]) -> None:
        """Note a scalar of optimizer step `step`, which has read these files. Every process must call this."""
        self._noted.append(Noted(what, value.detach(), step, tuple(paths)))
        if self.at_once:
            self.require()

    def require(self) -> None:
        """Raise NonFiniteError for the first noted value that is not finite in some process. All must call this."""
        noted, self._noted = self._noted, []
        values = torch.stack([each.value.float() for each in noted]).tolist() if noted else []
        own = next((place for place, value in enumerate(values) if not math.isfinite(value)), len(values))
        first = -self.world.max(-own)
        if first == len(values):
            return
        files = "\n  ".join(noted[first].paths)
        raise NonFiniteError(
            f"{noted[first].what} is {values[first]} at step {noted[first].step}, on these files:\n  {files}\n  "
            f"{ckpt.latest_checkpoint(self.run)} is older than this; {self.again}"
        )
