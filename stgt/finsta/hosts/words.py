"""The words of texts as a host reads them, with the characters that they stand for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

NO_TEXT = ("",)
"""A batch that hosts read in place of an empty one, since tokenizers need a text. The text's vector is left out"""


class Words(NamedTuple):
    """The tokens of n texts, all int64."""

    ids: Tensor
    """(n, L)"""
    mask: Tensor
    """(n, L), 0 at padding"""
    offsets: Tensor
    """(n, L, 2), the characters [start, end) of each token; (0, 0) for padding and special tokens"""

    def to(self, device: torch.device) -> Words:
        return Words(*(tensor.to(device) for tensor in self))

    def mean(self, states: Tensor) -> Tensor:
        """The mean state of the tokens that stand for characters. states: (n, L, C). Returns (n, C).

        A text that has none of them, such as "!", gets zeros.
        """
        spoken = (self.offsets[..., 1] > self.offsets[..., 0]).to(states.dtype)
        return (spoken[:, None] @ states)[:, 0] / spoken.sum(1, keepdim=True).clamp(min=1)


def read_words(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], longest: int) -> Words:
    """The tokens that a tokenizer of transformers makes of texts, at most `longest` of each text.

    Raises ValueError for a tokenizer that does not tell the characters of its tokens.
    """
    if not tokenizer.is_fast:
        raise ValueError(f"tokenizer is a {type(tokenizer).__name__}, expected a fast one, which gives offsets")
    options = dict(padding=True, truncation=True, max_length=longest, return_tensors="pt")
    told = dict(return_offsets_mapping=True, return_special_tokens_mask=True, return_attention_mask=True)
    found = tokenizer(list(texts), **options, **told)
    special = found["special_tokens_mask"].bool() | (found["attention_mask"] == 0)
    return Words(
        found["input_ids"], found["attention_mask"], found["offset_mapping"].masked_fill(special[..., None], 0)
    )
