"""The loss that a step of post-training minimises: that of Finsta and the host, or that of a control."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stgt.finsta.batch import GraphBatch
from stgt.finsta.hosts.host import Host, HostStates
from stgt.finsta.model.finsta import Finsta
from stgt.finsta.training.config import PostTraining
from stgt.finsta.training.data import Clips, labels_of


class Objective(nn.Module):
    """A loss with parameters of its own, which the host does not need later.

    `align` and `tune` return scalars: "loss", which is made smaller, and its parts.
    """

    aligns = False
    """Whether there is a first stage"""

    def align(self, host: Host, clips: Clips) -> dict[str, Tensor]:
        """A step of the first stage. The host gets no gradient."""
        raise NotImplementedError

    def tune(self, host: Host, clips: Clips) -> dict[str, Tensor]:
        """A step of the second stage."""
        raise NotImplementedError


class WithFinsta(Objective):
    """The contrasts of Finsta, and in the second stage the host's loss and the distillation (our own equation)."""

    aligns = True

    def __init__(self, config: PostTraining, host: Host) -> None:
        super().__init__()
        self.finsta = Finsta(config.finsta, host.widths)
        self.weights = {"osc": config.osc_weight, "ptc": config.ptc_weight}
        self.weights["distillation"] = config.distillation_weight

    def align(self, host: Host, clips: Clips) -> dict[str, Tensor]:
        with torch.no_grad():
            states = host.states(clips.videos, clips.texts, clips.times)
            graphs = self._graphs(states, clips)
            labels = host.words(graphs.labels)
        losses = self.finsta(states, graphs, labels).losses
        return {"loss": torch.stack(list(losses.values())).sum(), **losses}

    def tune(self, host: Host, clips: Clips) -> dict[str, Tensor]:
        own, states = host.step(clips.videos, clips.texts, clips.times, clips.numbers)
        graphs = self._graphs(states, clips)
        output = self.finsta(states, graphs, host.words(graphs.labels))
        parts = {**output.losses, "distillation": output.distillation}
        parts = {name: parts[name] for name, weight in self.weights.items() if weight and name in parts}
        loss = own + sum(self.weights[name] * part for name, part in parts.items())
        return {"loss": loss, "host": own, **parts}

    def _graphs(self, states: HostStates, clips: Clips) -> GraphBatch:
        graphs = GraphBatch.of(clips.graphs, states.times, states.offsets, self.finsta.config)
        return graphs.to(states.video.device)


class HostAlone(Objective):
    """The host's own loss, as a control: what more steps alone are worth."""

    def tune(self, host: Host, clips: Clips) -> dict[str, Tensor]:
        own, _ = host.step(clips.videos, clips.texts, clips.times, clips.numbers)
        return {"loss": own, "host": own}


class WithLabels(Objective):
    """The host's loss and one that finds the labels in its mean state, as a control: what the labels are worth."""

    def __init__(self, config: PostTraining, host: Host, vocabulary: Sequence[str]) -> None:
        super().__init__()
        self.weight, self.vocabulary = config.labels_weight, list(vocabulary)
        self.head = nn.Linear(host.widths.video, len(self.vocabulary))

    def tune(self, host: Host, clips: Clips) -> dict[str, Tensor]:
        own, states = host.step(clips.videos, clips.texts, clips.times, clips.numbers)
        logits = self.head(states.video.mean((1, 2))).float()
        rows = [[float(label in labels) for label in self.vocabulary] for labels in map(labels_of, clips.graphs)]
        found = F.binary_cross_entropy_with_logits(logits, torch.tensor(rows, device=logits.device))
        return {"loss": own + self.weight * found, "host": own, "labels": found}


def make_objective(config: PostTraining, host: Host, vocabulary: Sequence[str]) -> Objective:
    """The objective that `config.control` names. vocabulary: the labels and attributes of all clips."""
    if config.control == "steps":
        return HostAlone()
    return WithLabels(config, host, vocabulary) if config.control == "labels" else WithFinsta(config, host)
