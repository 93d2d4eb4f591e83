"""X-CLIP of transformers as a host."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

import stgt._torchvision  # noqa: F401  (before transformers)
from stgt.finsta.hosts.host import HostStates, Widths
from stgt.finsta.hosts.words import NO_TEXT, Words, read_words

from transformers import PreTrainedTokenizerBase, XCLIPModel  # isort: skip
from transformers.utils import ModelOutput  # isort: skip


class XCLIPHost:
    """X-CLIP (arXiv 2208.02816), whose frames exchange messages, and whose texts are prompted by the video.

    The prompts change a text's vector, not the states of its words. So there are no cross-modal states.
    """

    def __init__(self, model: XCLIPModel, tokenizer: PreTrainedTokenizerBase) -> None:
        self.model, self.tokenizer = model, tokenizer
        text, vision = model.config.text_config, model.config.vision_config
        self.widths = Widths(text.hidden_size, vision.hidden_size, None)
        self.grid = (vision.image_size // vision.patch_size,) * 2

    def states(self, videos: Tensor, texts: Sequence[str], times: Tensor) -> HostStates:
        words = self._words(texts)
        return self._states(self._run(videos, words), words, times)

    def step(self, videos: Tensor, texts: Sequence[str], times: Tensor, numbers: Tensor) -> tuple[Tensor, HostStates]:
        words = self._words(texts)
        output = self._run(videos, words, return_loss=True)
        return output.loss, self._states(output, words, times)

    def words(self, texts: Sequence[str]) -> Tensor:
        words = self._words(texts or NO_TEXT)
        found = self.model.text_model(input_ids=words.ids, attention_mask=words.mask)
        return words.mean(found.last_hidden_state)[: len(texts)]

    def similarity(self, videos: Tensor, texts: Sequence[str]) -> Tensor:
        """The cosine of a video's vector and a text's, after the video has prompted the text."""
        logits = self._run(videos, self._words(texts)).logits_per_video
        return (logits / self.model.logit_scale.exp()).float()

    def _words(self, texts: Sequence[str]) -> Words:
        longest = self.model.config.text_config.max_position_embeddings
        return read_words(self.tokenizer, texts, longest).to(self.model.device)

    def _run(self, videos: Tensor, words: Words, **options: bool) -> ModelOutput:
        if videos.shape[1] != (frames := self.model.config.vision_config.num_frames):
            raise ValueError(f"videos have {videos.shape[1]} frames, expected {frames}, which X-CLIP was made for")
        return self.model(pixel_values=videos, input_ids=words.ids, attention_mask=words.mask, **options)

    def _states(self, output: ModelOutput, words: Words, times: Tensor) -> HostStates:
        patches = output.vision_model_output.last_hidden_state[:, 1:].unflatten(0, tuple(times.shape))
        return HostStates(output.text_model_output.last_hidden_state, words.offsets, patches, self.grid, times)
