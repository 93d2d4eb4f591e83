"""A linear probe: whether the states of objects tell how the objects move, for a classifier with a single layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from stgt.finsta.graphs.graph import ClipGraphs

MOTIONS = ("moving", "growing", "still")
"""The classes that boxes tell apart. "growing" is any change of size"""
UNSEEN = ("turning", "vanishing")
"""Motions that leave the box as it is. Each is told from "still" by a probe of its own"""
PENALTY = 1e-3
"""The factor of the sum of squared weights in the loss of the probe"""
_PUSHED = ("hits", "hitting")
"""An object that is hit moves on, although no relation says so"""


def motion(clip: ClipGraphs, track: int, time: float) -> str | None:
    """The motion of an object at a time, by the relations of the nearest frame: one of MOTIONS or UNSEEN.

    It is None where that is not known: the object is not in that frame, does two things at once, or may be pushed.
    """
    frames = clip.dsg.frames if clip.dsg else ()
    frame = min(frames, key=lambda frame: abs(frame.t - time), default=None)
    if frame is None or all(thing.track != track for thing in frame.objects):
        return None
    if any(relation.predicate in _PUSHED for each in frames for relation in each.relations):
        return None
    said = {relation.predicate for relation in frame.relations if relation.subject == track and relation.object is None}
    kinds = {_kind(predicate) for predicate in said} or {"still"}
    return kinds.pop() if len(kinds) == 1 else None


def _kind(predicate: str) -> str | None:
    if predicate in ("growing", "shrinking"):
        return "growing"
    return {"moving": "moving", "staying": "still", **{name: name for name in UNSEEN}}.get(predicate.split(" ")[0])


def probe_figures(states: Tensor, kinds: Sequence[str | None], clips: Sequence[int]) -> dict[str, float]:
    """The balanced accuracy in percent: of MOTIONS together, and of each of UNSEEN against "still".

    The probe is fitted to the objects of the clips with even numbers, and tested on those of the others. A figure is
    left out where a class is missing in one of the halves.
    states: (n, d); kinds: n, from `motion`; clips: n, the clip of each object.
    """
    groups: Mapping[str, tuple[str, ...]] = {"motion": MOTIONS, **{name: (name, "still") for name in UNSEEN}}
    half = torch.tensor([clip % 2 == 0 for clip in clips])
    figures = {}
    for name, classes in groups.items():
        label = torch.tensor([classes.index(kind) if kind in classes else -1 for kind in kinds])
        parts = [(label >= 0) & part for part in (half, ~half)]
        if all(len(label[part].unique()) == len(classes) for part in parts):
            fit, test = parts
            figures[name] = _balanced_accuracy(states[fit], label[fit], states[test], label[test])
    return figures


def _balanced_accuracy(states: Tensor, label: Tensor, test: Tensor, expected: Tensor) -> float:
    """The mean over classes of the share of test objects that a logistic regression puts into the right class."""
    states, test = states.double(), test.double()
    middle, spread = states.mean(0), states.std(0).clamp(min=1e-6)
    weight, bias = _fitted((states - middle) / spread, label)
    found = (((test - middle) / spread) @ weight.T + bias).argmax(1)
    rights = [(found[expected == kind] == kind).double().mean() for kind in expected.unique()]
    return 100 * float(torch.stack(rights).mean())


@torch.enable_grad()
def _fitted(states: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
    """The weights and biases of a logistic regression in which all classes count the same."""
    count = torch.bincount(label)
    weight = torch.zeros(len(count), states.shape[1], dtype=states.dtype, requires_grad=True)
    bias = torch.zeros(len(count), dtype=states.dtype, requires_grad=True)
    balance = len(label) / (len(count) * count.to(states.dtype))
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=100, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = F.cross_entropy(states @ weight.T + bias, label, balance) + PENALTY * weight.square().sum()
        value.backward()
        return value

    optimizer.step(loss)
    return weight.detach(), bias.detach()
