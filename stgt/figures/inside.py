"""Intermediate values of a trained model for one clip: the graph, the attention, and the winners of max-pooling."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stgt_kernels import SpatioTemporalGraph, spatio_temporal_graph, token_similarity


class Token(NamedTuple):
    """A patch of a clip: its frame, row and column, counted from 0."""

    frame: int
    row: int
    column: int


@dataclass(frozen=True)
class Inside:
    """Values of one graph layer for one clip, on the CPU. N = T·P tokens, P = rows·columns patches in raster order."""

    local: Tensor
    """(T, P, C) patches from which the graph is built"""
    graph: SpatioTemporalGraph
    """The graph of this clip, a batch of one"""
    q: Tensor
    """(H, N, D) float32"""
    k: Tensor
    tokens: Tensor
    """(T, 1+P, C), [CLS] first: the output of the last layer, which max-pool sampling reads"""
    window: int
    """The largest number of frames between the ends of an edge, at most T-1"""
    threshold: float | None
    """None if every pair of the band is an edge (ablation)"""

    @property
    def frames(self) -> int:
        return self.local.shape[0]

    @property
    def grid(self) -> int:
        """Patches along one side of a frame."""
        return round(self.local.shape[1] ** 0.5)

    def node(self, token: Token) -> int:
        """The token's number among all N."""
        return (token.frame * self.grid + token.row) * self.grid + token.column

    def maps(self, row: Tensor) -> Tensor:
        """Reshapes values of all tokens to one map per frame: (N,) → (T, rows, columns)."""
        return row.view(self.frames, self.grid, self.grid)

    def similarity(self) -> Tensor:
        """Cosine similarity of all pairs of patches (Eq. 6), (N, N) float32."""
        return token_similarity(self.local[None], window=self.frames - 1).to_dense()[0].float()

    def distance(self) -> Tensor:
        """How many frames the tokens of each pair are apart, (N, N) int64."""
        frame = torch.arange(self.frames).repeat_interleave(self.grid**2)
        return (frame[:, None] - frame).abs()

    def band(self) -> Tensor:
        """True for the pairs that lie within the window, (N, N) bool."""
        return self.distance() <= self.window

    def weights(self) -> Tensor:
        """The model's edge weights (Eq. 7), (N, N) float32, 0 where there is no edge."""
        return self.graph.to_dense()[0].float()

    def at_threshold(self, threshold: float) -> Tensor:
        """The weights (N, N) that the graph would have with this threshold."""
        return spatio_temporal_graph(self.local[None], threshold=threshold, window=self.window).to_dense()[0].float()

    def attention(self, weight: Tensor) -> Tensor:
        """The softmax over edges of (q·k/√D)·W (Eq. 10-11), averaged over heads. Weights of 1 give plain attention.

        weight: (N, N), 0 where there is no edge. Returns (N, N) float32. A row without edges is 0; others sum to 1.
        """
        mean = torch.zeros_like(weight, dtype=torch.float32)
        for q, k in zip(self.q, self.k, strict=True):
            score = (q @ k.T) * (q.shape[-1] ** -0.5 * weight)
            mean += score.masked_fill(weight == 0, -torch.inf).softmax(-1).nan_to_num(0.0)
        return mean / len(self.q)


@torch.inference_mode()
def look_inside(model: nn.Module, video: Tensor, *, layer: int = 0) -> Inside:
    """Run a model on a clip and return the values of one of its graph layers.

    video: (T, 3, S, S), normalised. Raises ValueError if the model has no such layer, or its layers have no graph.
    """
    config = model.config.graph
    if config.kind != "graph":
        raise ValueError(f"the model joins frames by {config.kind!r}, expected 'graph': it has no edges to draw")
    if not 0 <= layer < config.layers:
        raise ValueError(f"layer is {layer}, expected 0 to {config.layers - 1}")
    attention, seen, last = model.graph.blocks[layer].graph_attention, [], []
    hooks = (
        attention.register_forward_pre_hook(lambda _, inputs: seen.extend(inputs)),
        model.graph.blocks[-1].register_forward_hook(lambda _, inputs, output: last.append(output[0])),
    )
    try:
        model.encode_video(video[None].to(next(model.parameters()).device))
    finally:
        for hook in hooks:
            hook.remove()
    x, graph = seen
    device = x.device.type
    # Under autocast the graph is built from patches in half precision, whatever the dtype of the patches.
    local = x.to(torch.get_autocast_dtype(device)) if torch.is_autocast_enabled(device) else x
    if isinstance(graph, Tensor):
        graph = SpatioTemporalGraph.from_dense(graph, len(video), config.window)
    with torch.autocast(device, enabled=False):
        q, k, _ = attention.project(x.float())
    return Inside(
        local=local[0].unflatten(0, (len(video), -1)).cpu(),
        graph=graph.to("cpu"),
        q=q[0].cpu(),
        k=k[0].cpu(),
        tokens=last[0][0].float().cpu(),
        window=graph.window,
        threshold=model.graph.blocks[layer].config.threshold if config.edges else None,
    )


def moving_token(frames: Tensor, grid: int) -> Token:
    """The patch that differs most from the median of its place over time, so it shows something that moves.

    frames: (T, H, W, 3) uint8. With more than two frames, the patch is not in the first or last frame, so it has
    neighbours on both sides. If nothing moves there, it is the middle patch of the middle frame.
    """
    first = 1 if len(frames) > 2 else 0
    change = (frames.float() - frames.float().median(0).values).abs().mean(-1)[first : len(frames) - first]
    if not change.any():
        return Token(len(frames) // 2, grid // 2, grid // 2)
    patches = F.adaptive_avg_pool2d(change[:, None], grid)[:, 0]
    frame, row, column = (int(i) for i in torch.unravel_index(patches.argmax(), patches.shape))
    return Token(first + frame, row, column)


def require_token(token: Token, frames: int, grid: int) -> None:
    """Raise ValueError if a token is outside a clip of `frames` frames with `grid`² patches each."""
    for name, place, size in zip(Token._fields, token, (frames, grid, grid), strict=True):
        if not 0 <= place < size:
            raise ValueError(f"{name} is {place}, expected 0 to {size - 1}")


def pool_winners(tokens: Tensor) -> tuple[Tensor, Tensor]:
    """For each patch, the share of the channels in which max-pool sampling (Eq. 15) takes its value.

    tokens: (T, 1+g², C), [CLS] first. Returns two (T, g, g) float32: the shares for the maximum of each row, which sum
    to 1 over a row, and the shares for the maximum of each column, which sum to 1 over a column.
    """
    side = round((tokens.shape[1] - 1) ** 0.5)
    grid = tokens[:, 1:].unflatten(1, (side, side))  # (T, row, column, C)
    of_rows = F.one_hot(grid.argmax(2), side).float().mean(2)  # (T, row, C, column) before the mean
    of_columns = F.one_hot(grid.argmax(1), side).float().mean(2)  # (T, column, C, row)
    return of_rows, of_columns.transpose(1, 2)
