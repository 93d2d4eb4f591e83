"""Graph attention as a module."""

from functools import partial

import torch
from torch import Tensor, nn

from stgt_kernels.dispatch import MAX_HEAD_DIM, autocast_dtype, check_name
from stgt_kernels.functional import graph_attention
from stgt_kernels.graph import SpatioTemporalGraph
from stgt_kernels.ops import numbers
from stgt_kernels.plain import project


class AttentionProjections(nn.Module):
    """The projections of multi-head attention to queries, keys, values and the output. A subclass adds the attention.

    Arguments and errors are those of ``GraphAttention``. most_channels: the most channels of a head; None for any
    number.
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
        most_channels: int | None = None,
    ) -> None:
        super().__init__()
        name = type(self).__name__
        width, heads = numbers.integer(embed_dim), numbers.integer(num_heads)
        if width is None or heads is None or heads < 1 or width < 1 or width % heads:
            raise ValueError(
                f"{name}: embed_dim must be a positive multiple of num_heads, and both integers, "
                f"got embed_dim={embed_dim!r}, num_heads={num_heads!r}"
            )
        if most_channels is not None and width > heads * most_channels:
            raise ValueError(
                f"{name}: heads have embed_dim / num_heads = {width} / {heads} = {width // heads} channels, "
                f"expected at most {most_channels}"
            )
        bias = numbers.flag(name, "bias", bias)
        self.embed_dim, self.num_heads, self.head_dim = width, heads, width // heads
        self.dropout = numbers.dropout_probability(name, "dropout", dropout)
        linear = partial(nn.Linear, width, width, bias=bias, device=device, dtype=dtype)
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
        ValueError: embed_dim is no multiple of num_heads, D > 128, dropout is out of range, bias is no bool, or the
            backend is unknown; in a call, x has another shape, or outside of autocast another dtype than the
            parameters.
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
        super().__init__(
            embed_dim, num_heads, bias=bias, dropout=dropout, device=device, dtype=dtype, most_channels=MAX_HEAD_DIM
        )
        self.backend = backend

    def forward(self, x: Tensor, graph: SpatioTemporalGraph) -> Tensor:
        """x: (B, N, C); graph: of B samples with N nodes. Returns (B, N, C). Raises ValueError as the class says."""
        if not isinstance(x, Tensor) or x.ndim != 3 or x.shape[-1] != self.embed_dim:
            got = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
            raise ValueError(f"GraphAttention: x must be a tensor (B, N, C) with C={self.embed_dim}, got {got}")
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
