"""The spatio-temporal graph transformer: joins the tokens of all frames along the edges of a graph (paper Eq. 1-15)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from stgt.config import GraphConfig
from stgt.models.cross_frame import CrossFrameBlock
from stgt.models.motion import EdgeMotion
from stgt.models.position import Position
from stgt.models.precision import Float32Module
from stgt.models.transformer import LayerNorm, ResidualAttentionBlock
from stgt_kernels import GraphAttention, SpatioTemporalGraph, linear, spatio_temporal_graph, token_similarity
from stgt_kernels.graph import band_of
from stgt_kernels.modules import AttentionProjections
from stgt_kernels.ops.graph_attention.reference import graph_attention_dense
from stgt_kernels.ops.spatio_temporal_graph.reference import spatio_temporal_graph_dense
from stgt_kernels.plain import project
from stgt_kernels.rounding import compared_threshold


class DenseGraphAttention(AttentionProjections):
    """Graph attention as the released model computes it, with (B, H, N, N) score matrices in eager PyTorch."""

    def forward(self, x: Tensor, weight: Tensor) -> Tensor:
        """x: (B, N, C), weight: (B, N, N), 0 where there is no edge. Returns (B, N, C)."""
        q, k, v = self.project(x)
        keep, keep_prob = None, 1.0
        if self.training and self.dropout > 0:
            keep_prob = 1.0 - self.dropout
            keep = torch.empty(*q.shape[:3], q.shape[2], device=q.device, dtype=torch.bool).bernoulli_(keep_prob)
        scale = q.shape[-1] ** -0.5
        out, _ = graph_attention_dense(q, k, v, weight, scale=scale, keep=keep, keep_prob=keep_prob)
        return self.merge(out)


class GraphBlock(nn.Module):
    """[CLS] tokens attend across frames, patches along the graph, then all tokens within a frame or clip (Eq. 4-14).

    In the released form, a linear map first changes all tokens, and the result of graph attention then replaces the
    patches. In the residual form there is no such map, and the result of graph attention is added to the patches.
    With `config.motion`, the motion along the edges is added to the result of graph attention.
    """

    def __init__(self, config: GraphConfig, width: int, drop_path: float) -> None:
        super().__init__()
        self.config = config
        self.proj = nn.Linear(width, width) if config.form == "released" else nn.Identity()
        self.cls_block = ResidualAttentionBlock(width, config.heads)
        if config.attention == "dense":
            self.graph_attention = DenseGraphAttention(width, config.heads, dropout=config.dropout)
        else:
            self.graph_attention = GraphAttention(width, config.heads, dropout=config.dropout, backend=config.backend)
        self.motion = EdgeMotion(width) if config.motion else None
        self.residual_block = ResidualAttentionBlock(width, config.heads, drop_path)

    def build_graph(self, local: Tensor) -> SpatioTemporalGraph | Tensor:
        """The graph of this block's patches (Eq. 6-7). local: (B, T, P, C).

        Returns a dense matrix (B, T·P, T·P) if `config.attention` is "dense".
        """
        c = self.config
        threshold = c.threshold if c.edges else None
        if c.attention == "dense":
            x = local if c.differentiable else local.detach()
            if threshold is not None:
                threshold = compared_threshold(threshold, x.shape[-1], x.dtype)
            weight = spatio_temporal_graph_dense(x, threshold, c.window)
            return weight if c.weights else (weight != 0).to(weight.dtype)
        options = dict(window=c.window, differentiable=c.differentiable, backend=c.backend)
        if threshold is None:
            graph = token_similarity(local, **options)
        else:
            graph = spatio_temporal_graph(local, threshold=threshold, **options)
        return graph if c.weights else graph.unweighted()

    def _banded(self, weight: Tensor, local: Tensor) -> SpatioTemporalGraph:
        """The graph of a dense matrix (B, T·P, T·P)."""
        frames, patches = local.shape[1:3]
        blocks = weight.unflatten(2, (frames, patches)).unflatten(1, (frames, patches))
        return SpatioTemporalGraph(band_of(blocks, min(self.config.window, frames - 1)))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x: (B, T, 1+P, C), [CLS] first. Returns the same shape and the mean number of edges per patch, a scalar."""
        x = project(self.proj, x)
        cls, local = x.split([1, x.shape[2] - 1], 2)  # the backward pass of two slices would add two padded tensors
        cls = cls.squeeze(2)
        for _ in range(self.config.cls_repeats):
            cls = self.cls_block(cls)
        graph = self.build_graph(local)
        dense = isinstance(graph, Tensor)
        degree = torch.count_nonzero(graph.detach()).float() / local.shape[:3].numel() if dense else graph.mean_degree()
        attended = self.graph_attention(local.flatten(1, 2), graph).view(local.shape)
        if self.motion is not None:
            attended = attended + self.motion(self._banded(graph, local) if dense else graph).to(attended.dtype)
        local = local + attended if self.config.form == "residual" else attended
        x = torch.cat([cls[:, :, None].to(local.dtype), local], 2)
        if self.config.scope == "frame":
            x = self.residual_block(x)
        else:
            x = self.residual_block(x.flatten(1, 2)).view(x.shape)
        return x, degree


def max_pool_sampling(x: Tensor) -> Tensor:
    """Keeps each frame's [CLS], and the maxima over the rows and over the columns of its patches (Eq. 15).

    x: (B, T, 1+g², C). Returns (B, T·(1+2g), C), frame after frame. An image (T=1) keeps all tokens: (B, 1+g², C).
    """
    if x.shape[1] == 1:
        return x[:, 0]
    side = round((x.shape[2] - 1) ** 0.5)
    cls, patches = x.split([1, x.shape[2] - 1], 2)
    grid = patches.unflatten(2, (side, side))
    return torch.cat([cls, grid.amax(2), grid.amax(3)], 2).flatten(1, 2)


class GraphTransformer(Float32Module):
    """Turns the tokens of frames into one sequence of video tokens (paper Eq. 1-15).

    It consists of positions, blocks, max-pool sampling, a norm and a projection. With `config.kind` "cross_frame" the
    blocks are X-CLIP's in place of graph blocks, and with "none" there are no blocks.
    width: C, the channels of a token; grid: patches along one side of a frame, so P = grid².
    """

    def __init__(self, config: GraphConfig, width: int, grid: int) -> None:
        super().__init__()
        self.config = config
        self.position = Position(width, grid, config.frames, config.pos2d)
        rates = [config.drop_path * (i + 1) / config.layers for i in range(config.layers)]
        if config.kind == "graph":
            blocks = [GraphBlock(config, width, rate) for rate in rates]
        elif config.kind == "cross_frame":
            blocks = [CrossFrameBlock(width, config.heads, config.frames, rate) for rate in rates]
        else:
            blocks = []
        self.blocks = nn.ModuleList(blocks)
        self.ln_post = LayerNorm(width)
        self.proj = nn.Parameter(width**-0.5 * torch.randn(width, width))

    def forward(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """x: (B, T, 1+P, C), [CLS] first, for any T. Returns (B, T·(1+2·√P), C) or (B, 1+P, C) for T=1, and statistics.

        Raises ValueError if the width or the number of patches of the tokens is not the model's.
        """
        expected = tuple(self.position.spatial.shape)
        if x.ndim != 4 or tuple(x.shape[2:]) != expected or x.shape[1] < 1:
            raise ValueError(f"tokens are {tuple(x.shape)}, expected (B, T, {expected[0]}, {expected[1]})")
        x = self.position(x)
        degrees = []
        for block in self.blocks:
            if self.config.checkpointing and self.training and torch.is_grad_enabled():
                x, degree = checkpoint(block, x, use_reentrant=False)
            else:
                x, degree = block(x)
            degrees.append(degree)
        stats = {"edges_per_token": torch.stack(degrees).mean()} if self.config.kind == "graph" else {}
        return linear(self.ln_post(max_pool_sampling(x)), self.proj.t()), stats
