"""Measures whether a trained Finsta model knows which tracks words are about, and how objects move."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from stgt.finsta.batch import GraphBatch
from stgt.finsta.evaluation.grounding import (
    ObjectFrame,
    PredicateTime,
    object_figures,
    object_frames,
    predicate_figures,
    predicate_times,
)
from stgt.finsta.evaluation.noise import boxes_alone
from stgt.finsta.evaluation.probe import motion, probe_figures
from stgt.finsta.graphs.graph import ClipGraphs
from stgt.finsta.hosts.host import Host, HostStates
from stgt.finsta.model.finsta import Finsta
from stgt.finsta.model.output import FinstaOutput

VIEWS: dict[str, Callable[[ClipGraphs], ClipGraphs]] = {"whole graphs": lambda clip: clip, "boxes alone": boxes_alone}
"""The parts of the graphs of videos that the model is given. Labels and relations say much of what the words are
about, so the boxes and tracks alone are shown as well"""


class _Seen(NamedTuple):
    """The results of one batch of clips in one view."""

    output: FinstaOutput
    clips: Sequence[ClipGraphs]
    """With their whole graphs"""
    times: Tensor
    """(B, T)"""


@torch.no_grad()
def understanding(
    finsta: Finsta, host: Host, frames: Iterable[tuple[Tensor, Tensor]], clips: Sequence[ClipGraphs]
) -> dict[str, dict[str, dict[str, float]]]:
    """Grounding in each of VIEWS, and the linear probe of motion for boxes alone, all in percent.

    frames: batches of the frames (B, T, 3, S, S) and their times (B, T), in the order of the clips. They may go on
    after the last of the clips.
    Returns {view: {"objects", "predicates" or "probe": figures}}; a part that no clip has a truth for is left out.
    """
    objects: dict[str, list[ObjectFrame]] = {view: [] for view in VIEWS}
    predicates: dict[str, list[PredicateTime]] = {view: [] for view in VIEWS}
    nodes: list[Tensor] = []
    kinds: list[str | None] = []
    owners: list[int] = []
    start = 0
    for videos, times in frames:
        batch = clips[start : start + len(videos)]
        if not batch:
            break
        for view, seen in _views(finsta, host, videos[: len(batch)], times[: len(batch)], batch):
            for clip, own, found in zip(batch, seen.times.tolist(), seen.output.grounding, strict=True):
                objects[view] += object_frames(clip, found)
                predicates[view] += predicate_times(clip, found, own)
            if view == "boxes alone":
                nodes.append(seen.output.object_nodes.float().cpu())
                kinds += _kinds(seen)
                owners += [start + clip for clip in seen.output.object_index[:, 0].tolist()]
        start += len(batch)
    probe = {"boxes alone": probe_figures(torch.cat(nodes), kinds, owners)} if nodes else {}
    figures = {
        view: {
            "objects": object_figures(objects[view]),
            "predicates": predicate_figures(predicates[view]),
            "probe": probe.get(view, {}),
        }
        for view in VIEWS
    }
    return {view: {name: part for name, part in parts.items() if part} for view, parts in figures.items()}


def _views(
    finsta: Finsta, host: Host, videos: Tensor, times: Tensor, clips: Sequence[ClipGraphs]
) -> Iterator[tuple[str, _Seen]]:
    """The output for each view of the clips' graphs. The host sees the clips once."""
    device = next(host.model.parameters()).device
    states = host.states(videos.to(device), [clip.text for clip in clips], times)
    for view, change in VIEWS.items():
        yield view, _Seen(_output(finsta, host, states, list(map(change, clips))), clips, states.times.cpu())


def _output(finsta: Finsta, host: Host, states: HostStates, clips: Sequence[ClipGraphs]) -> FinstaOutput:
    graphs = GraphBatch.of(clips, states.times.cpu(), states.offsets, finsta.config).to(states.text.device)
    return finsta(states, graphs, host.words(graphs.labels))


def _kinds(seen: _Seen) -> list[str | None]:
    """The motion of each object in its frame."""
    return [
        motion(seen.clips[clip], track, float(seen.times[clip, frame]))
        for clip, track, frame in seen.output.object_index.tolist()
    ]
