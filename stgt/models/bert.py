"""BERT's layers as the Q-Former of BLIP-2 uses them. Their tensors have the names of transformers' `Blip2QFormerModel`.

The positions of a sequence are Q queries and then L words. Both go through the same self-attention. Only the queries
attend to the video, and queries and words have feed-forward layers of their own.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stgt.config import QFormerConfig
from stgt.models.dropout import Dropout, attention
from stgt.models.rows import select_rows
from stgt_kernels import linear
from stgt_kernels.plain import is_plain, project

_EPS = 1e-12


def initial_std(width: int) -> float:
    """The standard deviation of the weights of a new linear layer: BERT's 0.02 at BERT's width of 768.

    With 0.02 at a width of 128, each layer would add hardly anything to its residual, and training would lose its first
    hundreds of steps. With this value, a layer's output has the same size at every width.
    """
    return 0.02 * (768 / width) ** 0.5


VideoKeys = tuple[Tensor, ...]
"""Keys and values of videos: (B, S, 2·hidden) for each layer with a cross-attention, first the keys, then the values.

They do not depend on the words, so they are computed only once for a video, even if several passes and texts use them.
"""


class Residual(nn.Module):
    """norm(residual + dropout(dense(x)))."""

    def __init__(self, width: int, config: QFormerConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(width, config.hidden)
        self.LayerNorm = nn.LayerNorm(config.hidden, eps=_EPS)
        self.dropout = Dropout(config.dropout)

    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        """x: (B, S, width); residual: (B, S, hidden). Returns (B, S, hidden)."""
        return self.LayerNorm(self.dropout(project(self.dense, x)) + residual)


class Intermediate(nn.Module):
    """The wide layer of a feed-forward part: gelu(dense(x))."""

    def __init__(self, config: QFormerConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden, config.intermediate)

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, S, hidden). Returns (B, S, intermediate)."""
        return F.gelu(project(self.dense, x))


class Projections(nn.Module):
    """The maps of multi-head attention to queries, keys and values."""

    def __init__(self, hidden: int, source: int) -> None:
        super().__init__()
        self.query = nn.Linear(hidden, hidden)
        self.key = nn.Linear(source, hidden)
        self.value = nn.Linear(source, hidden)

    def keys_values(self, x: Tensor) -> Tensor:
        """Keys and values of x (B, S, source) in one product: (B, S, 2·hidden)."""
        if not is_plain(self.key, self.value):
            return torch.cat([self.key(x), self.value(x)], -1)
        weight = torch.cat([self.key.weight, self.value.weight])
        return linear(x, weight, torch.cat([self.key.bias, self.value.bias]))


class Attention(nn.Module):
    """Multi-head attention with its output map, residual and norm."""

    def __init__(self, config: QFormerConfig, source: int) -> None:
        """source: the width of the tokens that are attended to."""
        super().__init__()
        self.attention = Projections(config.hidden, source)
        self.output = Residual(config.hidden, config)
        self.heads, self.dropout = config.heads, config.dropout

    def forward(self, x: Tensor, keys_values: Tensor, bias: Tensor | None = None) -> Tensor:
        """x: (B, S, hidden); keys_values: (B, N, 2·hidden); bias, which is added to the scores: (B, 1, S, N) or None.

        Returns (B, S, hidden).
        """
        q = project(self.attention.query, x).unflatten(-1, (1, self.heads, -1))
        dropout = self.dropout if self.training else 0.0
        heads = attention(q, keys_values.unflatten(-1, (2, self.heads, -1)), bias, dropout)
        return self.output(heads.flatten(2), x)


class Layer(nn.Module):
    """Self-attention of queries and words, cross-attention of the queries, and a feed-forward part for each of them."""

    def __init__(self, config: QFormerConfig, width: int, cross: bool, text: bool) -> None:
        """width: width of the video tokens; cross: whether queries attend to them; text: whether there are words."""
        super().__init__()
        self.attention = Attention(config, config.hidden)
        self.crossattention = Attention(config, width) if cross else None
        if text:
            self.intermediate, self.output = Intermediate(config), Residual(config.intermediate, config)
        self.intermediate_query, self.output_query = Intermediate(config), Residual(config.intermediate, config)

    def keys(self, embeds: Tensor) -> Tensor:
        """The keys and values of video tokens (B, S, width) for the cross-attention: (B, S, 2·hidden)."""
        return self.crossattention.attention.keys_values(embeds)

    def forward(
        self, x: Tensor, queries: int, bias: Tensor | None, video: Tensor | None, outputs: int | None = None
    ) -> Tensor:
        """x: (B, S, hidden). The first `queries` positions are queries.

        bias: (B, 1, S, S), added to the scores of the self-attention; video: the result of `keys`, or None in a layer
        without cross-attention; outputs: the number of first positions that are needed, None for all.
        Returns (B, outputs, hidden), or the shape of x.
        """
        keys_values = self.attention.attention.keys_values(x)
        if outputs is not None:
            x, bias = x[:, :outputs], None if bias is None else bias[:, :, :outputs]
        x = self.attention(x, keys_values, bias)
        # The backward pass of two slices would add two padded tensors.
        asked, words = x.split([queries, x.shape[1] - queries], 1)
        parts = []
        if queries:
            if self.crossattention is not None:
                asked = self.crossattention(asked, video)
            parts.append(self.output_query(self.intermediate_query(asked), asked))
        if words.shape[1]:
            parts.append(self.output(self.intermediate(words), words))
        return torch.cat(parts, 1) if len(parts) > 1 else parts[0]


class Bert(nn.Module):
    """The layers of the Q-Former, and the norm of their input."""

    def __init__(self, config: QFormerConfig, width: int, text: bool) -> None:
        """width: width of the video tokens. text=False leaves out the layers that only words pass through."""
        super().__init__()
        self.layernorm = nn.LayerNorm(config.hidden, eps=_EPS)
        self.dropout = Dropout(config.dropout)
        numbers = range(config.layers)
        layers = [Layer(config, width, number % config.cross_frequency == 0, text) for number in numbers]
        self.encoder = nn.ModuleDict({"layer": nn.ModuleList(layers)})
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=initial_std(config.hidden))
                nn.init.zeros_(module.bias)

    def keys(self, embeds: Tensor) -> VideoKeys:
        """The keys and values of video tokens (B, S, width)."""
        return tuple(layer.keys(embeds) for layer in self.encoder["layer"] if layer.crossattention is not None)

    def forward(
        self,
        x: Tensor,
        queries: int,
        bias: Tensor | None = None,
        video: Tensor | VideoKeys = (),
        rows: Tensor | None = None,
        outputs: int | None = None,
    ) -> Tensor:
        """x: (B, S, hidden), whose first `queries` positions are queries; bias: float32 (B, 1, S, S).

        video: tokens that the queries attend to, or the result of `keys` for them; rows: int64 (B,), the number of the
        video of each sequence, where None means that sequence i has video i.
        outputs: the number of positions that are needed, at least `queries`. Only these go through the last layer.
        Returns (B, outputs, hidden), the first positions, or the shape of x if outputs is None.
        """
        x = self.dropout(self.layernorm(x))
        crossed, layers = 0, self.encoder["layer"]
        for number, layer in enumerate(layers, 1):
            keys = None
            if queries and layer.crossattention is not None:
                whole = isinstance(video, Tensor)
                keys = layer.keys(video) if whole else video[crossed]
                keys = keys if rows is None else select_rows(keys, rows)
                crossed += 1
            x = layer(x, queries, bias, keys, outputs if number == len(layers) else None)
        return x
