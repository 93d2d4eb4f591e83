"""Retrieval, and the choice between a caption and one that is wrong in one thing, by a host's own similarity."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from stgt.data.text import wordings
from stgt.evaluation.metrics import ranks, recall_figures, said_of
from stgt.finsta.hosts.host import Host
from stgt.structure import field, read_json

KINDS = ("attribute", "subject", "direction", "order", "adverb")
"""The kinds of faults of wrong captions: two colours or two objects are exchanged, a motion is the opposite one, two
motions come in the other order, or "slowly" and "quickly" are exchanged"""


@dataclass(frozen=True)
class Matching:
    """The results for each of V clips, with one caption each."""

    text_to_video: list[int]
    """The rank of the clip for its caption, from 1"""
    video_to_text: list[int]
    """The rank of the caption for its clip, from 1"""
    choices: dict[str, list[float | None]]
    """{kind: for each clip 1 if its caption is more similar than the wrong one, 0 if it is less similar, 0.5 if both
    are equally similar, and None if there is no wrong one of this kind}"""

    def figures(self) -> dict[str, dict[str, float]]:
        """Percentages: recalls in both directions, and the right choices of each kind with their mean over kinds."""
        right = {kind: _percent([each for each in found if each is not None]) for kind, found in self.choices.items()}
        if right:
            right["mean"] = sum(right.values()) / len(right)
        found = {way: recall_figures(torch.tensor(getattr(self, way))) for way in ("text_to_video", "video_to_text")}
        return {**found, "choices": right}


def read_negatives(scenes: Path) -> dict[str, dict[str, str]]:
    """{video: {kind: wrong caption}} from the scenes.json of `stgt data shapes --kind phases`.

    Raises ValueError that names the file and the clip if a value is missing or has another type.
    """
    found = {}
    for number, clip in enumerate(field(read_json(scenes, dict), "clips", list, str(scenes))):
        where = f"{scenes}: clip {number}"
        if not isinstance(clip, dict):
            raise ValueError(f"{where}: it is no object, expected one")
        wrong = field(clip, "negatives", dict, where) if "negatives" in clip else {}
        found[field(clip, "video", str, where)] = {kind: field(wrong, kind, str, where) for kind in wrong}
    return found


@torch.inference_mode()
def match(
    host: Host, videos: Iterable[Tensor], captions: Sequence[str], negatives: Sequence[Mapping[str, str]]
) -> Matching:
    """Rank all clips for each caption and all captions for each clip, and choose between right and wrong captions.

    Each video is encoded once. All captions are encoded again for each batch of videos, since a host may need both at
    once. Clips whose captions are equal word for word count as right answers to each other, as in `stgt evaluate`.

    videos: batches (B, T, 3, S, S) of V clips. captions: V. negatives: for each clip {kind: wrong caption}.
    Raises ValueError if the numbers differ, or for a similarity that is not finite.
    """
    if len(captions) != len(negatives):
        raise ValueError(f"there are {len(captions)} captions and {len(negatives)} negatives, expected equal numbers")
    device = next(host.model.parameters()).device
    rows: list[Tensor] = []
    choices: dict[str, list[float | None]] = {kind: [None] * len(captions) for each in negatives for kind in each}
    start = 0
    for batch in videos:
        wrong = [(row, kind, text) for row in range(len(batch)) for kind, text in negatives[start + row].items()]
        texts = [*captions, *(text for _, _, text in wrong)]
        similarity = host.similarity(batch.to(device), texts).float().cpu()
        rows.append(similarity[:, : len(captions)])
        for place, (row, kind, _) in enumerate(wrong, start=len(captions)):
            own, other = similarity[row, start + row], similarity[row, place]
            choices[kind][start + row] = 0.5 * float(own >= other) + 0.5 * float(own > other)
        start += len(batch)
    if start != len(captions):
        raise ValueError(f"there are {start} videos and {len(captions)} captions, expected equal numbers")
    scores, owner = torch.cat(rows), torch.arange(start)
    wording = torch.tensor(wordings(captions))
    said = said_of(owner, wording, start)[:, wording]  # (video, caption)
    return Matching(ranks(scores.T, said.T).tolist(), ranks(scores, said).tolist(), choices)


def _percent(values: Sequence[float]) -> float:
    return 100 * sum(values) / len(values)
