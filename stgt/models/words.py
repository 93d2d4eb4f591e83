"""The embeddings of words, which are also the output matrix of the Q-Former's prediction head."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stgt.config import QFormerConfig
from stgt_kernels import linear
from stgt_kernels.ops.tensors import eager_on_cpu
from stgt_kernels.plain import is_plain


class WordEmbeddings(nn.Module):
    """The sum of a word's and its position's embedding."""

    def __init__(self, config: QFormerConfig) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(config.vocab_size, config.hidden, padding_idx=config.pad_token_id)
        self.position_embeddings = nn.Embedding(config.max_positions, config.hidden)
        self._shared: tuple[Tensor, Tensor] | None = None

    @contextmanager
    def one_gradient(self) -> Iterator[None]:
        """Within the block, all uses of the embeddings add up their gradients in one tensor.

        By itself, PyTorch makes a gradient of the size of all embeddings for each batch of texts that is looked up, and
        nearly all of it is 0. Here those gradients are sparse, and are added in place to that of the product in
        `logits`. The result is a dense tensor in any case. On GPUs and in compiled models, which clear and add faster,
        nothing changes.
        """
        weight = self.word_embeddings.weight
        if torch.is_grad_enabled() and _only_looks_up(self.word_embeddings):
            self._shared = _OneGradient.apply(weight)
        try:
            yield
        finally:
            self._shared = None

    def forward(self, input_ids: Tensor) -> Tensor:
        """input_ids: (…, L) integers, L at most `max_positions`. Returns float32 (…, L, hidden)."""
        if self._shared is None:
            words = self.word_embeddings(input_ids)
        else:
            words = F.embedding(input_ids, self._shared[1], self.word_embeddings.padding_idx, sparse=True)
        return words + self.position_embeddings.weight[: input_ids.shape[-1]]

    def logits(self, hidden: Tensor, bias: Tensor) -> Tensor:
        """The products of vectors with the embeddings of all words. hidden: (…, hidden), bias: (V). Returns (…, V)."""
        return linear(hidden, self.word_embeddings.weight if self._shared is None else self._shared[0], bias)


def _only_looks_up(table: nn.Embedding) -> bool:
    """Whether a table on the CPU does nothing but look up rows whose gradients are dense."""
    if not is_plain(table) or table.max_norm is not None or table.scale_grad_by_freq or table.sparse:
        return False
    return eager_on_cpu(table.weight, dtypes=(table.weight.dtype,))


class _OneGradient(torch.autograd.Function):
    """A weight -> two views of it: one whose gradient is dense, and one whose gradient is sparse.

    Nothing but a product may use the first, whose gradient is changed in place: no other function may have it as well.
    """

    @staticmethod
    def forward(ctx, weight: Tensor) -> tuple[Tensor, Tensor]:
        return weight.view_as(weight), weight.view_as(weight)

    @staticmethod
    def backward(ctx, dense: Tensor, sparse: Tensor) -> Tensor:
        return dense.add_(sparse)
