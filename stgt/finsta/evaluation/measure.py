"""Measures a host, and the Finsta model in its folder if there is one, on clips with scene graphs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from stgt.finsta.evaluation.matching import match
from stgt.finsta.evaluation.measured import Figures, Measured
from stgt.finsta.evaluation.understanding import understanding
from stgt.finsta.graphs.graph import ClipGraphs
from stgt.finsta.hosts.folders import HostFolder
from stgt.finsta.saved import WEIGHTS, load_finsta
from stgt.models.precision import DTYPES


def measure(
    model: Path,
    host: HostFolder,
    clips: Sequence[ClipGraphs],
    frames: Iterable[tuple[Tensor, Tensor]],
    negatives: Mapping[str, Mapping[str, str]],
    grounded: int | None = None,
) -> Measured:
    """Measure the host of a folder, and Finsta's groundings if the folder holds its weights.

    model: the folder; host: what `open_host` gives for it. clips: one for each video; frames: their `Frames`, or a list
    of the same batches. negatives: {video: {kind: wrong caption}}. grounded: the number of clips, from the first one,
    on which Finsta is measured; all if None.
    """
    place = next(host.host.model.parameters()).device
    captions, wrong = [clip.text for clip in clips], [negatives.get(clip.video, {}) for clip in clips]
    known: Figures = {}
    with torch.autocast(place.type, DTYPES[host.precision], enabled=host.precision != "fp32"):
        matching = match(host.host, (videos for videos, _ in frames), captions, wrong)
        if (model / WEIGHTS).is_file():
            known = understanding(load_finsta(model).to(place), host.host, frames, clips[:grounded])
    sources = ", ".join(sorted({clip.source for clip in clips}))
    return Measured([clip.video for clip in clips], sources, matching, known)
