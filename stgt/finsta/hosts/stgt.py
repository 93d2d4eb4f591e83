"""Our own model as a host."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import Tensor

from stgt.config import LossConfig
from stgt.data.text import Tokenizer
from stgt.finsta.hosts.calls import Call, calls_of
from stgt.finsta.hosts.host import HostStates, Widths
from stgt.finsta.hosts.words import NO_TEXT, Words
from stgt.models.bert import Bert
from stgt.models.stgt import STGT


class STGTHost:
    """STGT (arXiv 2407.11677).

    The states of the patches are those of the last block of the graph transformer, before max-pool sampling. The states
    of the words are those of the Q-Former without the video, and the cross-modal states those of its matching pass.
    """

    def __init__(self, model: STGT, tokenizer: Tokenizer, loss: LossConfig | None = None) -> None:
        """loss: the settings of the loss that `step` computes; None takes the default ones."""
        self.model, self.tokenizer, self.loss = model, tokenizer, loss or LossConfig()
        hidden, side = model.config.qformer.hidden, model.config.vision.sizes.grid
        self.widths, self.grid = Widths(hidden, model.config.vision.sizes.width, hidden), (side, side)
        self._frames = model.graph.blocks[-1] if len(model.graph.blocks) else model.graph.position

    def states(self, videos: Tensor, texts: Sequence[str], times: Tensor) -> HostStates:
        words, model = self._words(texts), self.model
        with calls_of(self._frames) as frames:
            embeds = model.ln_vision(model.graph(model.visual_tokens(videos))[0])
        text = model.qformer.text(words.ids, words.mask)
        return HostStates(text, words.offsets, _patches(frames), self.grid, times, self._cross(embeds, words))

    def step(self, videos: Tensor, texts: Sequence[str], times: Tensor, numbers: Tensor) -> tuple[Tensor, HostStates]:
        words, model = self._words(texts), self.model
        batch = {"video": videos, "input_ids": words.ids, "attention_mask": words.mask, "video_index": numbers}
        with (
            calls_of(self._frames) as frames,
            calls_of(model.ln_vision) as embeds,
            calls_of(model.qformer.bert) as bert,
            _all_positions(model.qformer.bert),
        ):
            loss = model(batch, self.loss)["loss"]
        # Only the matching pass names the video of each text. The texts alone are the end of the pass before it.
        reading = [call.output for call in bert if call.arguments.get("rows") is None]
        matching = [call.output for call in bert if call.arguments.get("rows") is not None]
        text = reading[-1][:, -words.ids.shape[1] :]
        if matching:
            cross = matching[0][: len(words.ids), model.config.qformer.queries :]  # the first B rows are the true pairs
        else:
            cross = self._cross(embeds[0].output, words)
        return loss, HostStates(text, words.offsets, _patches(frames), self.grid, times, cross)

    def words(self, texts: Sequence[str]) -> Tensor:
        words = self._words(texts or NO_TEXT)
        return words.mean(self.model.qformer.text(words.ids, words.mask))[: len(texts)]

    def similarity(self, videos: Tensor, texts: Sequence[str]) -> Tensor:
        """The largest cosine over the queries, as `stgt search` has it before the matching head re-ranks."""
        words, model = self._words(texts), self.model
        return model.similarity(model.encode_video(videos).queries, model.encode_text(words.ids, words.mask)).float()

    def _words(self, texts: Sequence[str]) -> Words:
        longest = self.model.config.qformer.max_text_length
        words = Words(*self.tokenizer.encode(texts, longest), self.tokenizer.offsets(texts, longest))
        return words.to(next(self.model.parameters()).device)

    def _cross(self, embeds: Tensor, words: Words) -> Tensor:
        return self.model.qformer.fused(embeds, words.ids, words.mask)[:, self.model.config.qformer.queries :]


@contextmanager
def _all_positions(bert: Bert) -> Iterator[None]:
    """Within the block, the last layer computes all positions, and hooks that were there before see all of them."""
    needed = []

    def ask(module: Bert, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        needed.append(kwargs.get("outputs"))
        return args, kwargs | {"outputs": None}

    handles = [
        bert.register_forward_pre_hook(ask, with_kwargs=True),
        bert.register_forward_hook(lambda module, args, output: output[:, : needed.pop()]),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _patches(frames: list[Call]) -> Tensor:
    """The tokens of all frames without their [CLS]. A block also returns a statistic beside them."""
    output = frames[0].output
    tokens = output[0] if isinstance(output, tuple) else output
    return tokens[:, :, 1:]
