"""The texts and videos that the matching loss joins to true and to wrong pairs."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from stgt import gather


class Pairs(NamedTuple):
    """The n pairs of this process, each with a wrong text, and with a wrong video that any process may have."""

    ids: Tensor
    """(n, L) int64 tokens of the true texts, padded like those of all processes"""
    mask: Tensor
    wrong_ids: Tensor
    wrong_mask: Tensor
    wrong_video: Tensor
    """(n,) int64 places in the global batch"""

    @classmethod
    def with_negatives(cls, ids: Tensor, mask: Tensor, wrong_video: Tensor, wrong_text: Tensor) -> Pairs:
        """ids, mask: (n, L); wrong_video, wrong_text: (n,), places in the global batch. All processes call this."""
        first, n = gather.rank() * len(ids), len(ids)
        all_ids, all_mask = gather.gather_texts(ids, mask)
        own = slice(first, first + n)
        return cls(all_ids[own], all_mask[own], all_ids[wrong_text], all_mask[wrong_text], wrong_video)

    def split(self, size: int) -> list[Pairs]:
        """The pairs in parts of `size`. The last part may be smaller."""
        return [Pairs(*part) for part in zip(*(tensor.split(size) for tensor in self), strict=True)]
