"""CLIP of transformers as a host, frame by frame."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor

import stgt._torchvision  # noqa: F401  (before transformers)
from stgt.finsta.hosts.host import HostStates, Widths
from stgt.finsta.hosts.words import NO_TEXT, Words, read_words
from stgt.losses import vtc_loss

from transformers import CLIPModel, PreTrainedTokenizerBase  # isort: skip


class _Seen(NamedTuple):
    patches: Tensor
    """(B, T, P, C)"""
    embeds: Tensor
    """(B, E), unit vectors of the videos"""


class _Read(NamedTuple):
    words: Words
    states: Tensor
    """(n, L, C)"""
    embeds: Tensor
    """(n, E), unit vectors of the texts"""


class CLIPHost:
    """CLIP, which sees each frame on its own, as in CLIP4Clip (arXiv 2104.08860) with mean pooling.

    A video's vector is the mean of the unit vectors of its frames, and the loss is the contrast with the texts. CLIP
    has no cross-modal states.
    """

    def __init__(self, model: CLIPModel, tokenizer: PreTrainedTokenizerBase) -> None:
        self.model, self.tokenizer = model, tokenizer
        text, vision = model.config.text_config, model.config.vision_config
        self.widths = Widths(text.hidden_size, vision.hidden_size, None)
        self.grid = (vision.image_size // vision.patch_size,) * 2

    def states(self, videos: Tensor, texts: Sequence[str], times: Tensor) -> HostStates:
        return self._states(self._see(videos), self._read(texts), times)

    def step(self, videos: Tensor, texts: Sequence[str], times: Tensor, numbers: Tensor) -> tuple[Tensor, HostStates]:
        seen, read = self._see(videos), self._read(texts)
        logits = seen.embeds @ read.embeds.T * self.model.logit_scale.exp()
        return vtc_loss(logits, logits.T, smoothing=0.0), self._states(seen, read, times)

    def words(self, texts: Sequence[str]) -> Tensor:
        read = self._read(texts or NO_TEXT)
        return read.words.mean(read.states)[: len(texts)]

    def similarity(self, videos: Tensor, texts: Sequence[str]) -> Tensor:
        """The cosine of a video's vector and a text's."""
        return (self._see(videos).embeds @ self._read(texts).embeds.T).float()

    def _see(self, videos: Tensor) -> _Seen:
        frames = self.model.vision_model(pixel_values=videos.flatten(0, 1))
        each = F.normalize(self.model.visual_projection(frames.pooler_output), dim=-1).unflatten(0, videos.shape[:2])
        patches = frames.last_hidden_state[:, 1:].unflatten(0, videos.shape[:2])
        return _Seen(patches, F.normalize(each.mean(1), dim=-1))

    def _read(self, texts: Sequence[str]) -> _Read:
        longest = self.model.config.text_config.max_position_embeddings
        words = read_words(self.tokenizer, texts, longest).to(self.model.device)
        found = self.model.text_model(input_ids=words.ids, attention_mask=words.mask)
        embeds = F.normalize(self.model.text_projection(found.pooler_output), dim=-1)
        return _Read(words, found.last_hidden_state, embeds)

    def _states(self, seen: _Seen, read: _Read, times: Tensor) -> HostStates:
        return HostStates(read.states, read.words.offsets, seen.patches, self.grid, times)
