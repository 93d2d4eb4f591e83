"""The Q-Former of BLIP-2: one BERT with learned queries that reads video, text or both."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stgt.config import QFormerConfig
from stgt.models.bert import Bert, VideoKeys, initial_std
from stgt.models.precision import Float32Module
from stgt.models.words import WordEmbeddings
from stgt_kernels.plain import project

# This number is added to the score of a pair that must not attend. BERT uses it too. It gives 0 after softmax, and it
# is finite in every dtype.
_HIDDEN = -1e4


def attention_bias(attention_mask: Tensor, queries: int = 0, causal: bool = False) -> Tensor:
    """The bias to add to attention scores, which hides pairs of positions that must not attend.

    Bidirectional: every position sees the queries and all words that are not padding. Causal (generation): queries see
    the queries, and a word sees the queries and the words up to itself.
    attention_mask: (B, L), 0 at padding. Returns float32 (B, 1, Q+L, Q+L), 0 where attention is allowed.
    """
    return _bias(_allowed(attention_mask, queries, causal))


def _allowed(attention_mask: Tensor, queries: int = 0, causal: bool = False) -> Tensor:
    """The pairs (i, j) of positions of which i may attend to j: bool (B, Q+L, Q+L)."""
    B, L = attention_mask.shape
    allowed = F.pad(attention_mask != 0, (queries, 0), value=True)[:, None, :].expand(B, queries + L, queries + L)
    if causal:
        # The queries share position 0.
        place = torch.arange(queries + L, device=attention_mask.device).sub(queries - 1).clamp(min=0)
        allowed = allowed & (place[None, :] <= place[:, None])
    return allowed


def _bias(allowed: Tensor) -> Tensor:
    return torch.zeros(allowed.shape, device=allowed.device).masked_fill(~allowed, _HIDDEN)[:, None]


class WordHead(nn.Module):
    """The part of BERT's prediction head before the product with the word embeddings, and the bias of that product."""

    def __init__(self, hidden: int, vocab_size: int) -> None:
        super().__init__()
        self.dense = nn.Linear(hidden, hidden)
        self.layernorm = nn.LayerNorm(hidden, eps=1e-12)
        self.bias = nn.Parameter(torch.zeros(vocab_size))

    def forward(self, x: Tensor) -> Tensor:
        """x: (…, hidden). Returns the same shape."""
        return self.layernorm(F.gelu(project(self.dense, x)))


class QFormer(Float32Module):
    """Queries and words go through one BERT. Only queries see the video, in the layers that have a cross-attention.

    Every `config.cross_frequency`-th layer has one, beginning with the first.

    encoder_width: C, the width of the video tokens. text=False leaves out the layers that only words pass through. Then
    only the methods `keys` and `video` work.
    """

    def __init__(self, config: QFormerConfig, encoder_width: int, text: bool = True) -> None:
        super().__init__()
        self.config = config
        self.query_tokens = nn.Parameter(torch.empty(1, config.queries, config.hidden))
        self.embeddings = WordEmbeddings(config) if text else None
        self.bert = Bert(config, encoder_width, text)
        self.word_head = WordHead(config.hidden, config.vocab_size) if text else None
        nn.init.normal_(self.query_tokens, std=0.02)
        if text:
            for weight in self.embeddings.parameters():
                nn.init.normal_(weight, std=0.02)
            nn.init.normal_(self.word_head.dense.weight, std=initial_std(config.hidden))
            nn.init.zeros_(self.word_head.dense.bias)

    def keys(self, embeds: Tensor) -> VideoKeys:
        """The keys and values of video tokens (B, S, C), which each pass below takes in place of the tokens.

        Passes over the same videos share them. Computing them takes most of the time of a pass.
        """
        return self.bert.keys(embeds)

    def video(self, video: Tensor | VideoKeys) -> Tensor:
        """Runs the queries alone. video: tokens (B, S, C), or their keys. Returns (B, Q, hidden)."""
        count = len(video if isinstance(video, Tensor) else video[0])
        return self.bert(self.query_tokens.expand(count, -1, -1), self.config.queries, video=video)

    def text(self, input_ids: Tensor, attention_mask: Tensor, outputs: int | None = None) -> Tensor:
        """Runs the words alone; each sees all words.

        input_ids, attention_mask: (B, L); outputs: the number of words of a text whose output is needed, from the first
        one on, where None stands for all. Returns (B, outputs, hidden).
        """
        _check_text(input_ids, attention_mask, self.config)
        return self.bert(self.embeddings(input_ids), 0, attention_bias(attention_mask), outputs=outputs)

    def fused(
        self,
        video: Tensor | VideoKeys,
        input_ids: Tensor,
        attention_mask: Tensor,
        rows: Tensor | None = None,
        outputs: int | None = None,
    ) -> Tensor:
        """Runs queries and words, which all see each other (for matching).

        video: tokens (N, S, C), or their keys; rows: int64 (B,), the number of the video of each text, where None means
        that text i has video i; outputs: the number of positions whose output is needed, at least Q, where None stands
        for all. Returns (B, outputs, hidden), the queries first.
        """
        return self._both(video, input_ids, attention_mask, rows, outputs, causal=False)

    def causal(
        self, video: Tensor | VideoKeys, input_ids: Tensor, attention_mask: Tensor, rows: Tensor | None = None
    ) -> Tensor:
        """Runs queries, and words that see the queries and earlier words (for generation). Returns (B, Q+L, hidden).

        video and rows are those of `fused`. The queries do not see words, so their output is the same as from `video`.
        """
        return self._both(video, input_ids, attention_mask, rows, None, causal=True)

    def read(
        self, video: Tensor | VideoKeys, written_ids: Tensor, input_ids: Tensor, attention_mask: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Runs `causal` for the texts written_ids and `text` for input_ids in a single pass, for training.

        All weights are then read once, and each has one gradient. The words of input_ids neither see the other
        positions nor are seen by them. written_ids, input_ids and attention_mask: (B, L).
        Returns the outputs of the queries (B, Q, hidden), of written_ids (B, L, hidden), and of the first word of each
        text in input_ids (B, hidden).
        """
        _check_text(input_ids, attention_mask, self.config)
        (B, L), Q = input_ids.shape, self.config.queries
        words = self.embeddings(torch.stack([written_ids, input_ids], 1)).flatten(1, 2)
        x = torch.cat([self.query_tokens.expand(B, -1, -1), words], 1)
        causal, text = _allowed(attention_mask, Q, causal=True), _allowed(attention_mask)
        bias = _bias(F.pad(causal, (0, L, 0, L)) | F.pad(text, (Q + L, 0, Q + L, 0)))
        queries, written, first = self.bert(x, Q, bias, video, outputs=Q + L + 1).split([Q, L, 1], 1)
        return queries, written, first[:, 0]

    def _both(
        self,
        video: Tensor | VideoKeys,
        input_ids: Tensor,
        attention_mask: Tensor,
        rows: Tensor | None,
        outputs: int | None,
        causal: bool,
    ) -> Tensor:
        _check_text(input_ids, attention_mask, self.config)
        videos = len(video if isinstance(video, Tensor) else video[0])
        if len(input_ids) != (videos if rows is None else len(rows)):
            given = f"{videos} videos" if rows is None else f"{len(rows)} rows"
            raise ValueError(f"input_ids has {len(input_ids)} texts for {given}, expected one each")
        queries, count = self.query_tokens.expand(len(input_ids), -1, -1), self.config.queries
        x = torch.cat([queries, self.embeddings(input_ids)], 1)
        return self.bert(x, count, attention_bias(attention_mask, count, causal), video, rows, outputs=outputs)

    def word_logits(self, hidden: Tensor) -> Tensor:
        """Logits of words. hidden: (B, L, hidden); position i predicts word i+1. Returns (B, L, V)."""
        return self.embeddings.logits(self.word_head(hidden), self.word_head.bias)


def _check_text(input_ids: Tensor, attention_mask: Tensor, config: QFormerConfig) -> None:
    if input_ids.ndim != 2 or input_ids.dtype not in (torch.int64, torch.int32):
        raise ValueError(f"input_ids is {tuple(input_ids.shape)} {input_ids.dtype}, expected (B, L) integers")
    if attention_mask.shape != input_ids.shape:
        shape = tuple(input_ids.shape)
        raise ValueError(f"attention_mask is {tuple(attention_mask.shape)}, expected the shape of input_ids, {shape}")
    if input_ids.shape[1] > config.max_positions:
        raise ValueError(f"input_ids has {input_ids.shape[1]} tokens per text, expected at most {config.max_positions}")
