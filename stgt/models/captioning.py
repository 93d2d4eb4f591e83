"""Captions from the generation head, word by word: beam search and nucleus sampling.

For each word the model reads the whole text so far, as in training. What it reads of the video is computed once.
"""

from __future__ import annotations

import torch
from torch import Tensor

from stgt.config import QFormerConfig
from stgt.models.bert import VideoKeys
from stgt.models.stgt import STGT


@torch.inference_mode()
def beam_captions(
    model: STGT,
    embeds: Tensor,
    *,
    end: int,
    beams: int = 3,
    max_length: int | None = None,
    min_length: int = 1,
    length_penalty: float = 1.0,
) -> Tensor:
    """The best caption that beam search finds for each video. With one beam the search is greedy.

    Texts are compared by log-probability / length ** length_penalty. A text that has ended stays among the beams, and
    its log-probability no longer changes. embeds: (B, S, C) from `encode_video`; end: the last token of a text, [SEP];
    max_length: the most tokens, `longest_caption` of the model if not given.
    Returns token ids int64 (B, at most max_length), without the begin token, filled up with `end`.
    Raises ValueError for beams or a length below 1, and for a length above the model's number of positions.
    """
    _require(beams=beams)
    max_length = _length(model, max_length)
    B = len(embeds)
    keys, rows = model.qformer.keys(embeds), torch.arange(B, device=embeds.device).repeat_interleave(beams)
    ids = torch.full((B * beams, 1), end, device=embeds.device)  # the model replaces the first token by [DEC]
    # All beams begin with the same text, so only the first is continued; otherwise all would stay the same.
    scores = torch.full((B, beams), -torch.inf, device=embeds.device)
    scores[:, 0] = 0
    done = torch.zeros(B, beams, dtype=torch.bool, device=embeds.device)
    first = torch.arange(B, device=embeds.device)[:, None] * beams
    for length in range(max_length):
        words = _next_word(model, keys, rows, ids, end, ended=length >= min_length).view(B, beams, -1)
        words = words.masked_fill(done[..., None], -torch.inf)
        words[..., end] = words[..., end].masked_fill(done, 0.0)
        scores, best = (scores[..., None] + words).flatten(1).topk(beams)
        beam, word = best // words.shape[-1], best % words.shape[-1]
        ids = torch.cat([ids[(first + beam).flatten()], word.view(-1, 1)], 1)
        done = done.gather(1, beam) | (word == end)
        if done.all():
            break
    texts = ids[:, 1:].view(B, beams, -1)
    lengths = (texts != end).sum(-1) + done
    best = (scores / lengths**length_penalty).argmax(1)
    return texts[torch.arange(B, device=embeds.device), best]


@torch.inference_mode()
def sample_captions(
    model: STGT,
    embeds: Tensor,
    *,
    end: int,
    top_p: float = 0.9,
    max_length: int | None = None,
    min_length: int = 1,
    generator: torch.Generator | None = None,
) -> Tensor:
    """One caption for each video. Each word is drawn from the fewest words whose total probability is `top_p` or more.

    embeds, end, max_length and the result are as in `beam_captions`; generator: a generator on the device of embeds.
    Raises ValueError for a top_p outside (0, 1], and for a length below 1 or above the model's number of positions.
    """
    max_length = _length(model, max_length)
    if not 0 < top_p <= 1:
        raise ValueError(f"top_p is {top_p}, expected a probability in (0, 1]")
    keys, rows = model.qformer.keys(embeds), torch.arange(len(embeds), device=embeds.device)
    ids = torch.full((len(embeds), 1), end, device=embeds.device)
    done = torch.zeros(len(embeds), dtype=torch.bool, device=embeds.device)
    for length in range(max_length):
        words = _next_word(model, keys, rows, ids, end, ended=length >= min_length)
        probability, order = words.exp().sort(descending=True, stable=True)
        kept = probability.cumsum(-1) - probability < top_p
        kept[:, 0] = True  # a top_p below 1e-45 is 0 in float32
        place = torch.multinomial(probability * kept, 1, generator=generator)
        word = order.gather(1, place)[:, 0].masked_fill(done, end)
        ids = torch.cat([ids, word[:, None]], 1)
        done |= word == end
        if done.all():
            break
    return ids[:, 1:]


def _next_word(model: STGT, keys: VideoKeys, rows: Tensor, ids: Tensor, end: int, *, ended: bool) -> Tensor:
    """Log-probabilities (B, V) of the word after `ids` (B, L).

    rows: (B,), the number of the video of each text; ended: whether the text may end here.
    """
    logits = model.generate_logits(keys, ids, torch.ones_like(ids), rows)[:, -1].float()
    if not ended:
        logits[:, end] = -torch.inf
    return logits.log_softmax(-1)


def longest_caption(config: QFormerConfig) -> int:
    """The most tokens of a caption without the begin token: 30, or fewer if the model was trained on shorter texts."""
    return max(1, min(30, config.max_text_length - 1))


def _length(model: STGT, given: int | None) -> int:
    """The length that is given, or else the default one. Raises ValueError if the model cannot write so many tokens."""
    config = model.config.qformer
    if given is None:
        return longest_caption(config)
    _require(max_length=given)
    if given > config.max_positions:
        raise ValueError(f"max_length is {given}, expected at most max_positions={config.max_positions} of the model")
    return given


def _require(**numbers: int) -> None:
    for name, value in numbers.items():
        if value < 1:
            raise ValueError(f"{name} is {value}, expected at least 1")
