"""The places of the words that a model learns to predict.

A batch brings them along, because the host would have to wait for a GPU to find them.
"""

from __future__ import annotations

from torch import Tensor

IGNORED = -100
"""The label of a token that is not predicted, which torch's cross entropy ignores"""


def predicted_places(attention_mask: Tensor) -> Tensor:
    """The places of all words but the first of each text, in the flattened (B, L−1).

    attention_mask: (B, L), 0 at padding. Returns int64 (W,).
    """
    return (attention_mask[:, 1:] != 0).flatten().nonzero()[:, 0]


def labelled_places(labels: Tensor) -> Tensor:
    """The places of the labels that are not IGNORED, in the flattened labels (B, L). Returns int64 (W,)."""
    return (labels != IGNORED).flatten().nonzero()[:, 0]
