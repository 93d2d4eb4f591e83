"""BLIP-2 of transformers as a host, frame by frame."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

import stgt._torchvision  # noqa: F401  (before transformers)
from stgt.finsta.hosts.host import HostStates, Widths
from stgt.finsta.hosts.words import NO_TEXT, Words, read_words
from stgt.losses import hard_negatives, vtc_loss, vtm_loss

from transformers import Blip2ForImageTextRetrieval, PreTrainedTokenizerBase  # isort: skip

TEMPERATURE = 0.07
"""The first temperature in BLIP-2's training (arXiv 2301.12597). The model of transformers has none"""


class BLIP2Host:
    """BLIP-2's retrieval model, whose Q-Former sees each frame on its own; its outputs are averaged over the frames.

    The loss is contrast plus matching with one hard negative in each direction. The cross-modal states are those of
    the words in the matching pass.
    """

    def __init__(self, model: Blip2ForImageTextRetrieval, tokenizer: PreTrainedTokenizerBase) -> None:
        """Raises ValueError for a model whose Q-Former does not read texts."""
        qformer, vision = model.config.qformer_config, model.config.vision_config
        if not qformer.use_qformer_text_input:
            raise ValueError("use_qformer_text_input is False, expected True: a Q-Former that reads texts")
        self.model, self.tokenizer = model, tokenizer
        self.widths = Widths(qformer.hidden_size, vision.hidden_size, qformer.hidden_size)
        self.grid = (vision.image_size // vision.patch_size,) * 2

    def states(self, videos: Tensor, texts: Sequence[str], times: Tensor) -> HostStates:
        words, frames = self._words(texts), self._frames(videos)
        cross = self._joint(frames, words)[:, self.model.config.num_query_tokens :]
        return HostStates(self._text(words), words.offsets, frames[:, :, 1:], self.grid, times, cross)

    def step(self, videos: Tensor, texts: Sequence[str], times: Tensor, numbers: Tensor) -> tuple[Tensor, HostStates]:
        words, frames = self._words(texts), self._frames(videos)
        text, count, own = self._text(words), len(texts), torch.arange(len(texts), device=videos.device)
        logits = self._similarity(frames, text) / TEMPERATURE
        draws = torch.rand(2, count).to(logits.device)
        wrong_text, wrong_video = hard_negatives(logits, draws[0]), hard_negatives(logits.T, draws[1])
        asked = Words(*(torch.cat([part, part, part[wrong_text]]) for part in words))
        joint = self._joint(frames[torch.cat([own, wrong_video, own])], asked)
        queries = self.model.config.num_query_tokens
        matching = self.model.itm_head(joint[:, :queries]).mean(1)
        loss = vtc_loss(logits, logits.T, smoothing=0.0) + vtm_loss(matching, matched=count)
        cross = joint[:count, queries:]
        return loss, HostStates(text, words.offsets, frames[:, :, 1:], self.grid, times, cross)

    def words(self, texts: Sequence[str]) -> Tensor:
        words = self._words(texts or NO_TEXT)
        return words.mean(self._text(words))[: len(texts)]

    def similarity(self, videos: Tensor, texts: Sequence[str]) -> Tensor:
        """The largest cosine over the queries, without the matching head."""
        return self._similarity(self._frames(videos), self._text(self._words(texts)))

    def _words(self, texts: Sequence[str]) -> Words:
        longest = self.model.config.qformer_config.max_position_embeddings
        return read_words(self.tokenizer, texts, longest).to(self.model.device)

    def _frames(self, videos: Tensor) -> Tensor:
        """The tokens of all frames, [CLS] first: (B, T, 1+P, C)."""
        found = self.model.vision_model(pixel_values=videos.flatten(0, 1)).last_hidden_state
        return found.unflatten(0, videos.shape[:2])

    def _text(self, words: Words) -> Tensor:
        """The states of the words without a video: (n, L, hidden)."""
        asked = self.model.embeddings(input_ids=words.ids)
        return self.model.qformer(query_embeds=asked, query_length=0, attention_mask=words.mask).last_hidden_state

    def _similarity(self, frames: Tensor, text: Tensor) -> Tensor:
        """Cosines (B, n) of videos, given by their frames, and of texts, given by the states of their words."""
        queries = self.model.query_tokens.expand(len(frames) * frames.shape[1], -1, -1)
        found = self.model.qformer(query_embeds=queries, encoder_hidden_states=frames.flatten(0, 1)).last_hidden_state
        each = F.normalize(self.model.vision_projection(found).float(), dim=-1).unflatten(0, frames.shape[:2])
        texts = F.normalize(self.model.text_projection(text[:, 0]).float(), dim=-1)
        return torch.einsum("bqe,ne->bnq", F.normalize(each.mean(1), dim=-1), texts).amax(-1)

    def _joint(self, frames: Tensor, words: Words) -> Tensor:
        """The states of the queries and the words, which see each other and one frame: (n, Q+L, hidden)."""
        count = frames.shape[1]
        ids, mask = (part.repeat_interleave(count, 0) for part in (words.ids, words.mask))
        queries = self.model.query_tokens.expand(len(ids), -1, -1)
        found = self.model.qformer(
            query_embeds=self.model.embeddings(input_ids=ids, query_embeds=queries),
            query_length=queries.shape[1],
            attention_mask=torch.cat([torch.ones_like(mask[:, :1]).expand(-1, queries.shape[1]), mask], 1),
            encoder_hidden_states=frames.flatten(0, 1),
        ).last_hidden_state
        return found.unflatten(0, (-1, count)).mean(1)
