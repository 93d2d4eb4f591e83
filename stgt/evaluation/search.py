"""Sentence in, clips out: the run's evaluation clips are encoded once and kept beside its checkpoints."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from stgt.evaluation.metrics import shortlist
from stgt.evaluation.retrieval import Texts, Videos, match_scores

INDEX = "search.safetensors"


class Hit(NamedTuple):
    video: int
    score: float
    """Similarity, plus the matching probability (up to 2) where it was among those re-ranked"""


def indexed_videos(run: Path, key: str, encode: Callable[[], Videos]) -> Videos:
    """The clips' encodings from the run folder, or encoded now if it has none or those of another key.

    `key` says all that the encodings depend on: weights, annotation, frames.
    """
    path = run / INDEX
    if path.exists():
        try:
            with safe_open(path, "pt") as file:
                if (file.metadata() or {}).get("key") == key:
                    return Videos(file.get_tensor("embeds"), file.get_tensor("queries"))
        except SafetensorError:
            pass  # cut off by a crash: made again below
    videos = encode()
    partial = path.with_name(f".{INDEX}.partial")
    save_file({name: tensor.contiguous() for name, tensor in videos._asdict().items()}, partial, {"key": key})
    os.replace(partial, path)
    return videos


@torch.inference_mode()
def search(model: nn.Module, videos: Videos, text: Texts, *, top: int = 5, k_test: int = 32) -> list[Hit]:
    """The `top` clips for one sentence, ranked as `stgt evaluate` ranks: the `k_test` most similar, re-ranked, first.

    text: a `Texts` of one caption.
    """
    if top < 1:
        raise ValueError(f"top is {top}, expected at least 1")
    similarity = model.similarity(videos.queries, text.features)[:, 0]
    order = shortlist(similarity[None], len(similarity))[0]
    best, rest = order[:k_test], order[k_test:]
    scores = similarity.clone()
    if len(best):
        pairs = torch.stack([best, torch.zeros_like(best)], dim=1)
        scores[best] += match_scores(model, videos, text, pairs)
        best = best[_descending(scores[best])]
    return [Hit(int(i), float(scores[i])) for i in torch.cat([best, rest])[:top]]


def _descending(scores: Tensor) -> Tensor:
    return scores.sort(descending=True, stable=True).indices
