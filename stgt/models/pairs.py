"""Finds the pairs of a global batch that have the same video or exactly the same text."""

from __future__ import annotations

from torch import Tensor

from stgt import gather


def same_pairs(batch: dict[str, Tensor]) -> Tensor:
    """True where a pair of any process is a positive for a pair of this process: bool (n, N). Its own pair always is.

    batch: video_index (n,) int64, a number for each video that is the same in all processes; input_ids and
    attention_mask (n, L) int64. Two texts are equal if their tokens are. Raises ValueError without video_index.
    """
    if "video_index" not in batch:
        raise ValueError("batch has no 'video_index', expected a number for each video, which multi_positive needs")
    video, n = batch["video_index"], len(batch["input_ids"])
    ids, mask = gather.gather_texts(batch["input_ids"], batch["attention_mask"])
    words = ids.masked_fill(mask == 0, -1)
    own = words[gather.rank() * n :][:n]
    return (video[:, None] == gather.gather(video, gradients=False)) | (own[:, None] == words).all(-1)
