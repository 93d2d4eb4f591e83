"""Measures a host, and the Finsta model in its folder if there is one, on clips with scene graphs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from stgt.finsta.evaluation.intervals import paired_difference
from stgt.finsta.evaluation.matching import KINDS, match
from stgt.finsta.evaluation.measured import Figures, Measured
from stgt.finsta.evaluation.understanding import understanding
from stgt.finsta.graphs.graph import ClipGraphs
from stgt.finsta.hosts.folders import HostFolder
from stgt.finsta.saved import WEIGHTS, load_finsta
from stgt.markdown import table
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


def report(measured: Measured) -> str:
    """The figures of a model as tables."""
    figures = measured.matching.figures()
    recalls = [
        [way.replace("_", " "), *(f"{value:.1f}" for value in figures[way].values())]
        for way in ("text_to_video", "video_to_text")
    ]
    parts = [
        f"{len(measured.videos)} clips, source of the graphs: {measured.source}",
        table(["", *figures["text_to_video"]], recalls),
    ]
    if right := figures["choices"]:
        rows = [[kind, f"{right[kind]:.1f}", str(_count(measured, kind))] for kind in KINDS if kind in right]
        parts.append(
            table(["wrong captions", "right choices, %", "clips"], [*rows, ["mean", f"{right['mean']:.1f}", ""]])
        )
    lines = [
        [view, part, name, f"{value:.1f}"]
        for view, found in measured.understanding.items()
        for part, values in found.items()
        for name, value in values.items()
    ]
    if lines:
        parts.append(table(["shown", "part", "figure", ""], lines))
    return "\n\n".join(parts)


def _count(measured: Measured, kind: str) -> int:
    return sum(each is not None for each in measured.matching.choices[kind])


def compare(one: Measured, other: Measured) -> str:
    """The differences of two models on the same clips in points, with the 95% intervals of a paired bootstrap."""
    rows = []
    for way in ("text_to_video", "video_to_text"):
        ours, theirs = ([100.0 * (rank == 1) for rank in getattr(each.matching, way)] for each in (one, other))
        rows.append([f"R@1, {way.replace('_', ' ')}", str(paired_difference(ours, theirs))])
    for kind, right in one.matching.choices.items():
        pairs = [pair for pair in zip(right, other.matching.choices[kind], strict=True) if None not in pair]
        ours, theirs = ([100.0 * value for value in each] for each in zip(*pairs, strict=True))
        rows.append([f"choices, {kind}", str(paired_difference(ours, theirs))])
    return table(["", "difference [95% interval], * if 0 is outside"], rows)
