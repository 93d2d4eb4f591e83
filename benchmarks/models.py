"""Randomly initialised models for the benchmarks, and the released model's way to compute their attention."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from statistics import NormalDist

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import stgt._torchvision  # noqa: F401  (transformers imports torchvision)
from benchmarks.inputs import real_tokens
from benchmarks.providers import dense_attention, dense_graph, frame_mask
from stgt.config import ModelConfig
from stgt.data.words import predicted_places
from stgt.models.bert import Bert
from stgt.models.graph_transformer import GraphBlock, GraphTransformer
from stgt.models.motion import EdgeMotion
from stgt.models.qformer import QFormer
from stgt.models.stgt import STGT
from stgt_kernels import GraphAttention, SpatioTemporalGraph
from stgt_kernels.dispatch import use_backend
from stgt_kernels.graph import band_of

from transformers import Blip2QFormerConfig, Blip2QFormerModel  # isort: skip  (after stgt._torchvision)

WORDS = NormalDist(11.3, 3.5)
"""Tokens of a text: captions of MSR-VTT have 9.3 words on average (Xu et al. 2016), and [CLS] and [SEP] are added"""


class RealTokens(nn.Module):
    """A frozen tower that does all its work, and then returns tokens of real clips.

    The tower's weights are random, so its own tokens would give a graph of arbitrary density.
    """

    def __init__(self, tower: nn.Module) -> None:
        super().__init__()
        self.tower = tower
        self.tokens: dict[torch.Size, Tensor] = {}

    def forward(self, video: Tensor) -> Tensor:
        shape = self.tower(video).shape
        if shape not in self.tokens:
            B, T, P, C = shape
            self.tokens = {shape: with_cls(real_tokens(B, T, P - 1, C, device=video.device))}
        return self.tokens[shape]


def with_cls(tokens: Tensor) -> Tensor:
    """(B, T, P, C) to (B, T, 1+P, C): puts the mean of each frame first, where the model expects a [CLS] token."""
    return torch.cat([tokens.mean(2, keepdim=True), tokens], 2)


def in_dtype(config: ModelConfig, dtype: str) -> ModelConfig:
    """The configuration with a tower that computes in "fp32" or "bf16"."""
    return replace(config, vision=replace(config.vision, dtype="float32" if dtype == "fp32" else "bfloat16"))


def shape_of(config: ModelConfig, B: int, T: int) -> dict[str, float]:
    """The sizes that a row of results names for batches of B clips with T frames."""
    sizes = config.vision.sizes
    return dict(B=B, T=T, P=sizes.grid**2, C=sizes.width, threshold=config.graph.threshold)


def make_model(config: ModelConfig, device: torch.device, cached: bool) -> STGT:
    """A randomly initialised model. It has no tower if features are cached."""
    torch.manual_seed(0)
    model = STGT(config, tower=not cached).to(device)
    if model.vision is not None and config.vision.open_blocks == 0:
        model.vision = RealTokens(model.vision)
    return model.train()


def make_batch(config: ModelConfig, B: int, T: int, cached: bool, device: torch.device) -> dict[str, Tensor]:
    """A batch of B clips, or of a tower's tokens for B clips if features are cached, each with a text.

    Texts have the lengths of real captions, and are padded to the longest length that the model takes.
    """
    vision, words = config.vision.sizes, config.qformer
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(words.vocab_size, (B, words.max_text_length), generator=generator).to(device)
    lengths = torch.tensor([round(WORDS.inv_cdf((place + 0.5) / B)) for place in range(B)], device=device)
    mask = (torch.arange(words.max_text_length, device=device) < lengths[:, None]).long()
    batch = {"input_ids": ids.where(mask != 0, words.pad_token_id), "attention_mask": mask}
    if cached:
        return batch | {"tokens": with_cls(real_tokens(B, T, vision.grid**2, vision.width, device=device))}
    size = (B, T, 3, vision.image_size, vision.image_size)
    return batch | {"video": torch.randn(size, generator=generator).to(device)}


def collated(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """The batch as our own loader makes it: texts end with the longest of them, and the places of words are known."""
    longest = int(batch["attention_mask"].sum(1).max())
    words = {name: batch[name][:, :longest] for name in ("input_ids", "attention_mask")}
    return batch | words | {"predicted": predicted_places(words["attention_mask"])}


@dataclass(frozen=True)
class DenseGraph:
    """A dense weight matrix in place of a graph. Its mean degree is 0, since the released model counts no edges."""

    weight: Tensor

    def mean_degree(self) -> Tensor:
        return self.weight.new_zeros(())


class ReleasedAttention(nn.Module):
    """The released model's eager attention, which uses the projections of another module."""

    def __init__(self, kernels: GraphAttention) -> None:
        super().__init__()
        self.kernels = kernels

    def forward(self, x: Tensor, graph: DenseGraph) -> Tensor:
        """(B, N, C) to (B, N, C)."""
        own = self.kernels
        out = dense_attention(*own.project(x), graph.weight, own.dropout if own.training else 0.0)
        return own.merge(out)


class DenseMotion(nn.Module):
    """The motion along the edges of a dense weight matrix. It equals the motion along the edges of the graph."""

    def __init__(self, motion: EdgeMotion, frames: int, window: int) -> None:
        super().__init__()
        self.motion, self.frames, self.window = motion, frames, window

    def forward(self, graph: DenseGraph) -> Tensor:
        """Returns (B, T, P, C)."""
        blocks = graph.weight.unflatten(2, (self.frames, -1)).unflatten(1, (self.frames, -1))
        return self.motion(SpatioTemporalGraph(band_of(blocks, min(self.window, self.frames - 1))))


def released_graph(block: GraphBlock, mask: Tensor) -> Callable[[Tensor], DenseGraph]:
    """A function that builds a block's graph as the released model does. mask: (N, N), which is made only once."""
    return lambda local: DenseGraph(dense_graph(local.detach(), mask, block.config.threshold))


@contextmanager
def as_released(graph: GraphTransformer, frames: int, device: torch.device) -> Iterator[None]:
    """Within the block, the graph layer computes as the released model does, with the same weights."""
    own = [(block.graph_attention, block.motion) for block in graph.blocks]
    patches = len(graph.position.spatial) - 1
    mask = frame_mask(frames, patches, graph.config.window, device)
    for block in graph.blocks:
        block.graph_attention = ReleasedAttention(block.graph_attention)
        block.build_graph = released_graph(block, mask)
        if block.motion is not None:
            block.motion = DenseMotion(block.motion, frames, graph.config.window)
    try:
        yield
    finally:
        for block, (attention, motion) in zip(graph.blocks, own, strict=True):
            block.graph_attention, block.motion = attention, motion
            del block.build_graph


@contextmanager
def eager_tower(model: STGT) -> Iterator[None]:
    """Within the block, the tower's attention is eager as in the released model: it stores whole score matrices.

    All other dense attention is PyTorch's.
    """
    layers = [m for m in model.modules() if getattr(m, "fused_attn", False)]
    for layer in layers:
        layer.fused_attn = False
    try:
        with use_backend("reference"):
            yield
    finally:
        for layer in layers:
            layer.fused_attn = True


class ReleasedBert(nn.Module):
    """The layers of the released Q-Former, as transformers computes them, with the weights of ours.

    Each pass computes the keys and values of all its videos, and its attention stores whole score matrices.
    """

    def __init__(self, bert: Bert, config: ModelConfig) -> None:
        super().__init__()
        q = config.qformer
        layers = Blip2QFormerConfig(
            hidden_size=q.hidden,
            num_hidden_layers=q.layers,
            num_attention_heads=q.heads,
            intermediate_size=q.intermediate,
            hidden_dropout_prob=q.dropout,
            attention_probs_dropout_prob=q.dropout,
            cross_attention_frequency=q.cross_frequency,
            encoder_hidden_size=config.vision.sizes.width,
            use_qformer_text_input=True,
            attn_implementation="eager",
        )
        with torch.device("meta"):
            self.layers = Blip2QFormerModel(layers)
        self.layers.load_state_dict(bert.state_dict(keep_vars=True), assign=True)

    def keys(self, embeds: Tensor) -> Tensor:
        return embeds

    def forward(
        self,
        x: Tensor,
        queries: int,
        bias: Tensor | None = None,
        video: Tensor | tuple = (),
        rows: Tensor | None = None,
        outputs: int | None = None,
    ) -> Tensor:
        """The arguments are those of `stgt.models.bert.Bert`, but video is always tokens.

        The last layer computes all positions, whatever `outputs` is.
        """
        embeds = video if isinstance(video, Tensor) else None
        embeds = embeds if rows is None else embeds[rows]
        return self.layers(x, queries, bias, encoder_hidden_states=embeds).last_hidden_state[:, :outputs]


def released_read(
    qformer: QFormer, video: Tensor, written_ids: Tensor, input_ids: Tensor, attention_mask: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The released model's two passes in place of `QFormer.read`, which makes one of them."""
    queries, written = qformer.causal(video, written_ids, attention_mask).tensor_split([qformer.config.queries], 1)
    return queries, written, qformer.text(input_ids, attention_mask)[:, 0]


def released_logits(qformer: QFormer, places: int, hidden: Tensor) -> Tensor:
    """Computes the logits of padding as well, as the released model does. hidden: (W, hidden), W at most `places`."""
    return QFormer.word_logits(qformer, F.pad(hidden, (0, 0, 0, places - len(hidden))))[: len(hidden)]


@contextmanager
def released_qformer(model: STGT, texts: int) -> Iterator[None]:
    """Within the block, the Q-Former computes as in the released model, with the same weights, for so many texts."""
    qformer, config = model.qformer, model.config
    bert = qformer.bert
    qformer.bert = ReleasedBert(bert, config).train(model.training)
    qformer.read = partial(released_read, qformer)
    qformer.word_logits = partial(released_logits, qformer, texts * (config.qformer.max_text_length - 1))
    try:
        yield
    finally:
        qformer.bert = bert
        del qformer.read, qformer.word_logits
