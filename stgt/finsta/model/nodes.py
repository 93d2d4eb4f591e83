"""The first states of nodes, from the states of the host."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from stgt.finsta.batch import GraphBatch
from stgt.finsta.batching.bags import rows
from stgt.finsta.batching.texts import Texts
from stgt.finsta.config import FinstaConfig
from stgt.finsta.graphs.graph import KINDS
from stgt.finsta.hosts.host import HostStates, Widths


def words_of_nodes(states: Tensor, texts: Texts) -> Tensor:
    """The mean of the host's states (B, L, w) of each text node's words: (N, w), or 0 if the host has none of them."""
    return torch.bmm(texts.words.to(states.dtype), states).flatten(0, 1).index_select(0, texts.slot)


def patches_of_nodes(states: Tensor, grid: tuple[int, int], graphs: GraphBatch) -> Tensor:
    """The mean of the host's states (B, T, P, w) in each video node's box, by the share of each patch in it: (N, w)."""
    videos = graphs.videos
    weight = shares(videos.box, grid).to(states.dtype)
    B, T, P, _ = states.shape
    table = weight.new_zeros(B * T * videos.most, P).index_copy(0, videos.slot, weight)
    pooled = torch.bmm(table.view(B * T, videos.most, P), states.flatten(0, 1))
    return pooled.flatten(0, 1).index_select(0, videos.slot)


def shares(box: Tensor, grid: tuple[int, int]) -> Tensor:
    """How much of a box lies in each patch, (N, rows · columns), each row adding up to 1. box: (N, 4) from 0 to 1."""
    down, right = (_overlap(box[:, start], box[:, start + 2], count) for start, count in zip((1, 0), grid, strict=True))
    area = (down[:, :, None] * right[:, None]).flatten(1)
    return area / area.sum(1, keepdim=True).clamp(min=torch.finfo(area.dtype).tiny)


def _overlap(low: Tensor, high: Tensor, count: int) -> Tensor:
    """The length that each of `count` equal parts of [0, 1] shares with the interval [low, high]: (N, count)."""
    edge = torch.arange(count + 1, device=low.device, dtype=low.dtype) / count
    shared = torch.minimum(high[:, None], edge[1:]) - torch.maximum(low[:, None], edge[:-1])
    return shared.clamp(min=0)


class NodeStates(nn.Module):
    """Linear maps from the host's widths to the width of the nodes, and embeddings of the kinds of nodes."""

    def __init__(self, config: FinstaConfig, widths: Widths) -> None:
        super().__init__()
        d = config.width
        self.word, self.patch = nn.Linear(widths.text, d), nn.Linear(widths.video, d)
        self.label = nn.Linear(widths.text, d, bias=False) if config.labels else None
        self.box = nn.Sequential(nn.Linear(4, d), nn.ReLU(), nn.Linear(d, d))
        self.text_kind, self.video_kind = nn.Embedding(len(KINDS), d), nn.Embedding(len(KINDS), d)
        self.text_norm, self.video_norm = nn.LayerNorm(d), nn.LayerNorm(d)

    def forward(self, words: Tensor, patches: Tensor, graphs: GraphBatch, labels: Tensor) -> tuple[Tensor, Tensor]:
        """The states of text nodes and of video nodes.

        A text node gets the vector of its label if the host has no state for its words, because the text was cut off.
        words: (N text nodes, Widths.text); patches: (N video nodes, Widths.video); labels: (n, Widths.text).
        """
        texts, videos = graphs.texts, graphs.videos
        spoken = torch.where(texts.spoken, words, rows(labels, texts.label).to(words.dtype))
        text = self.word(spoken) + self.text_kind(texts.kind)
        box = self.box(videos.box.to(self.patch.weight.dtype))
        video = self.patch(patches) + box + self.video_kind(videos.kind)
        if self.label is not None:
            video = video + rows(self.label(labels), videos.label)
        return self.text_norm(text), self.video_norm(video)


def check(states: HostStates, graphs: GraphBatch, labels: Tensor, widths: Widths) -> None:
    """Raise ValueError if the host's states do not fit the batch of graphs."""
    B, T, n = graphs.clips, graphs.frames, len(graphs.labels)
    P = states.grid[0] * states.grid[1]
    L = graphs.texts.words.shape[2]
    expected = {"states.text": (B, L, widths.text), "states.video": (B, T, P, widths.video)}
    given = {"states.text": states.text, "states.video": states.video, "labels": labels}
    expected["labels"] = (n, widths.text)
    if widths.cross is not None and states.cross is not None:
        expected["states.cross"], given["states.cross"] = (B, L, widths.cross), states.cross
    for name, shape in expected.items():
        if tuple(given[name].shape) != shape:
            raise ValueError(f"{name} is {tuple(given[name].shape)}, but the graphs and the host's widths need {shape}")
