"""The settings of one post-training. This module needs no torch, so that help is quick."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from stgt.fields import COUNT, require, require_counts, require_types
from stgt.finsta.config import FinstaConfig
from stgt.finsta.hosts.kinds import HostKind

Control = Literal["finsta", "steps", "labels", "shuffled"]
_WEIGHTS = ("osc_weight", "ptc_weight", "distillation_weight", "labels_weight")


@dataclass(frozen=True)
class PostTraining:
    """The host, the scene graphs, and the two stages: Finsta alone with a frozen host, then both together."""

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="HOST")]
    """The host: for "stgt" what `stgt evaluate` takes; for the others a folder that `save_pretrained` of transformers
    wrote, or a name on the Hugging Face hub."""
    graphs: Path
    """File of scene graphs (`stgt finsta graphs`), in which each clip has a text and both graphs."""
    out: Path
    """Folder of the new run. The same command goes on from the last checkpoint in it."""
    videos: Path | None = None
    """Folder of the videos; if not given, `videos` beside GRAPHS, or else the folder that the run was trained on."""
    host: HostKind = "stgt"
    """The kind of the host."""
    control: Control = "finsta"
    """finsta, or what it is compared with: steps (the steps of the second stage, on the host's loss alone), labels
    (the same steps, with a loss that finds the labels and attributes of the objects in the host's mean state of the
    video), shuffled (finsta, but each video has the graph of another video)."""
    finsta: FinstaConfig = field(default_factory=FinstaConfig)
    """The Finsta model. The default values suit simulated clips."""
    align_epochs: int = 1
    """Passes over the clips in the first stage, which trains Finsta alone."""
    epochs: int = 1
    """Passes over the clips in the second stage, which trains the host as well."""
    osc_weight: float = 1.0
    """Weight of the object-centred spatial contrast in the second stage."""
    ptc_weight: float = 1.0
    """Weight of the predicate-centred temporal contrast in the second stage."""
    distillation_weight: float = 1.0
    """Weight of the distillation from Finsta's nodes to the host's states."""
    labels_weight: float = 1.0
    """Weight of the multi-label loss of --control labels."""
    batch_size: int = 32
    """Number of clips in a batch."""
    lr: float = 1e-4
    """Largest learning rate of Finsta."""
    host_lr: float = 1e-5
    """Largest learning rate of the host."""
    warmup: float = 0.05
    """Part of the steps of each stage in which the learning rates grow. Then they fall along a cosine to 1%."""
    weight_decay: float = 0.05
    """Weight decay of tensors with two or more dimensions."""
    clip_norm: float | None = 1.0
    """Largest norm of the gradients of Finsta, and of those of the host; None does not clip them."""
    precision: Literal["fp32", "bf16"] | None = None
    """The dtype of the computation, by autocast; that of the host's own training if not given, or fp32."""
    frames: int | None = None
    """Frames of each clip for CLIP and BLIP-2; 8 if not given. Other hosts have a number of their own."""
    cache: bool = False
    """Whether decoded frames stay in memory, for small data sets whose decoding takes longer than the model."""
    workers: int = 4
    """Number of processes that read clips."""
    seed: int = 0
    """Seed of Finsta's first weights, the order of the clips, the choice of frames and the dropout."""
    device: str = "auto"
    """The device that computes; "auto" is a GPU where there is one."""
    tokenizer: str | None = None
    """The tokenizer of a host that comes without one, as in `stgt evaluate`."""
    log_every: int = 10
    """Number of steps between two records of the log."""
    save_every: int = 500
    """Number of steps between checkpoints; there is always one after the last step."""
    keep: int = 2
    """Number of newest checkpoints that are kept."""
    accept_changed_data: bool = False
    """Whether a run goes on if the graphs, the videos or the decoder have changed since it began."""

    def __post_init__(self) -> None:
        require_types(self)
        require_counts(self, epochs=COUNT, batch_size=COUNT, log_every=COUNT, save_every=COUNT, keep=COUNT)
        require(self, "align_epochs", self.align_epochs >= 0, "at least 0")
        for name in _WEIGHTS:
            require(self, name, 0.0 <= getattr(self, name) < math.inf, "a number of at least 0")
        for name in ("lr", "host_lr"):
            require(self, name, 0.0 < getattr(self, name) < math.inf, "a positive number")
        require(self, "warmup", 0.0 <= self.warmup <= 1.0, "a number in [0, 1]")
        require(self, "weight_decay", 0.0 <= self.weight_decay < math.inf, "a number of at least 0")
        require(self, "clip_norm", self.clip_norm is None or 0.0 < self.clip_norm < math.inf, "a positive number")
        fits = self.frames is None or (self.frames >= 1 and self.host in ("clip", "blip2"))
        require(self, "frames", fits, "at least 1, and None for hosts other than CLIP and BLIP-2")
        require(self, "workers", 0 <= self.workers <= 1000, "at least 0 and at most 1000")
        require(self, "seed", 0 <= self.seed < 2**63, "at least 0 and below 2**63")
