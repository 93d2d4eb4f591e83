"""Graph attention as a module."""

from torch import Tensor, nn

from stgt_kernels.dispatch import autocast_dtype
from stgt_kernels.functional import graph_attention
from stgt_kernels.graph import SpatioTemporalGraph


class GraphAttention(nn.Module):
    """Multi-head attention over the edges of a graph: Q, K, V and output projections with bias (paper Eq. 8-12).

    x: (B, N, C) and a graph of B samples with N nodes -> (B, N, C). No norm and no residual.
    dropout acts on the attention probabilities, in training mode only. x has the parameters' dtype: float32, float64 on
    the CPU, or bfloat16 or float16 after ``.to(dtype)`` or ``.half()``, with a graph of float16 or float32 weights.
    To train in half precision, keep the parameters in float32 and use autocast.

    Raises ValueError, outside of autocast, for x of another dtype than the parameters.
    """

    def __init__(self, width: int, heads: int, dropout: float = 0.0, backend: str = "auto"):
        super().__init__()
        if heads < 1 or width % heads:
            raise ValueError(f"GraphAttention: width must be a multiple of heads, got width={width}, heads={heads}")
        if not 0 <= dropout < 1:
            raise ValueError(f"GraphAttention: dropout must satisfy 0 <= dropout < 1, got {dropout}")
        self.heads, self.dropout, self.backend = heads, dropout, backend
        self.q_proj = nn.Linear(width, width)
        self.k_proj = nn.Linear(width, width)
        self.v_proj = nn.Linear(width, width)
        self.out_proj = nn.Linear(width, width)

    def forward(self, x: Tensor, graph: SpatioTemporalGraph) -> Tensor:
        dtype = self.q_proj.weight.dtype
        if x.dtype != dtype and autocast_dtype(x.device) is None:
            raise ValueError(
                f"GraphAttention: x is {x.dtype}, its parameters are {dtype}; convert one of them, or keep the "
                "parameters in float32 and use autocast"
            )
        projections = (self.q_proj, self.k_proj, self.v_proj)
        q, k, v = (project(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for project in projections)
        dropout_p = self.dropout if self.training else 0.0
        out = graph_attention(q, k, v, graph, dropout_p=dropout_p, backend=self.backend)
        return self.out_proj(out.transpose(1, 2).flatten(2))
