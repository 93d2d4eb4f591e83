"""Graph attention as a module."""

from functools import partial

import torch
from torch import Tensor, nn

from stgt_kernels.dispatch import MAX_HEAD_DIM, autocast_dtype, check_name
from stgt_kernels.functional import graph_attention
from stgt_kernels.graph import SpatioTemporalGraph
from stgt_kernels.plain import project


class AttentionProjections(nn.Module):
    """The projections of multi-head attention to queries, keys, values and the output. A subclass adds the attention.

    Arguments and errors are those of ``GraphAttention``.
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        *,
        bias: bool = True,
        dropout: float = 0.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        name = type(self).__name__
        if num_heads < 1 or embed_dim < 1 or embed_dim % num_heads:
            raise ValueError(
                f"{name}: embed_dim must be a positive multiple of num_heads, "
                f"got embed_dim={embed_dim}, num_heads={num_heads}"
            )
        if not 0 <= dropout < 1:
            raise ValueError(f"{name}: dropout must satisfy 0 <= dropout < 1, got {dropout}")
        self.embed_dim, self.num_heads, self.head_dim = embed_dim, num_heads, embed_dim // num_heads
        self.dropout = dropout
        linear = partial(nn.Linear, embed_dim, embed_dim, bias=bias, device=device, dtype=dtype)
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = linear(), linear(), linear(), linear()

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of tokens x (B, N, C): three tensors (B, H, N, D), views of (B, N, H, D)."""
        q, k, v = (
            project(projection, x).unflatten(-1, (self.num_heads, self.head_dim)).transpose(1, 2)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        return q, k, v

    def merge(self, out: Tensor) -> Tensor:
        """The output projection of the heads' results. out: (B, H, N, D). Returns (B, N, C)."""
        return project(self.out_proj, out.transpose(1, 2).flatten(2))

    def extra_repr(self) -> str:
        return f"embed_dim={self.embed_dim}, num_heads={self.num_heads}, dropout={self.dropout}"


class GraphAttention(AttentionProjections):
    """Multi-head attention over the edges of a graph, with projections before and after it (paper Eq. 8-12).

    It takes x (B, N, C) and a graph of B samples with N nodes, and returns (B, N, C). There is no norm and no residual.
    x has the parameters' dtype: float32, float64 on the CPU, or bfloat16 or float16 after ``.to(dtype)`` or
    ``.half()``, with a graph of float16 or float32 weights. To train in half precision, keep the parameters in float32
    and use autocast.

    Args:
        embed_dim: C, the number of channels of x and of the result.
        num_heads: H, the number of heads; each has D = C / H channels, at most 128.
        bias: whether the four projections add a bias.
        dropout: probability of dropping an edge after the softmax, in training mode only.
        backend: ``auto``, ``cuda``, ``triton``, ``cpu`` or ``reference``.
        device, dtype: where the parameters are made and in what, as in all modules of PyTorch.

    Raises:
        ValueError: embed_dim is no multiple of num_heads, D > 128, dropout is out of range, or the backend is unknown;
            in a call outside of autocast, x has another dtype than the parameters.
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        *,
        bias: bool = True,
        dropout: float = 0.0,
        backend: str = "auto",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        check_name(backend)
        super().__init__(embed_dim, num_heads, bias=bias, dropout=dropout, device=device, dtype=dtype)
        if self.head_dim > MAX_HEAD_DIM:
            raise ValueError(
                f"GraphAttention: heads have embed_dim / num_heads = {embed_dim} / {num_heads} = {self.head_dim} "
                f"channels, expected at most {MAX_HEAD_DIM}"
            )
        self.backend = backend

    def forward(self, x: Tensor, graph: SpatioTemporalGraph) -> Tensor:
        """x: (B, N, C); graph: of B samples with N nodes. Returns (B, N, C). Raises ValueError as the class says."""
        # Quantized projections and those of adapters are other classes, which may take any dtype.
        if type(self.q_proj) is nn.Linear and x.dtype != self.q_proj.weight.dtype and autocast_dtype(x.device) is None:
            raise ValueError(
                f"GraphAttention: x is {x.dtype}, its parameters are {self.q_proj.weight.dtype}; convert one of them, "
                "or keep the parameters in float32 and use autocast"
            )
        dropout_p = self.dropout if self.training else 0.0
        return self.merge(graph_attention(*self.project(x), graph, dropout_p=dropout_p, backend=self.backend))

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, backend={self.backend!r}"
