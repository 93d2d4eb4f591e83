"""Counts the multiplications and additions of whole models, including those of our own ops."""

from collections.abc import Callable

import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from stgt_kernels.ops.edge_attention import native_impl as _edges  # noqa: F401  (registers the ops)
from stgt_kernels.ops.graph_attention import native_impl as _attention  # noqa: F401
from stgt_kernels.ops.spatio_temporal_graph import native_impl as _graph  # noqa: F401


def count_flops(function: Callable[[], object]) -> int:
    """FLOPs of matrix products and convolutions. In graph attention, only pairs within the window count."""
    fast_path = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # the fast path is one op, which FlopCounterMode does not count
    try:
        with FlopCounterMode(display=False, custom_mapping=formulas()) as counter:
            function()
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)
    return counter.get_total_flops()


def formulas() -> dict[object, Callable]:
    """For each operator, a function from the shapes of its arguments to its FLOPs."""
    aten, ours = torch.ops.aten, torch.ops.stgt_kernels
    return {
        ours.graph_attention_fwd: lambda q, k, v, weight, *rest, **_: 4 * heads(q) * pairs(weight),
        ours.graph_attention_bwd: lambda dout, q, k, v, weight, *rest, **_: 10 * heads(q) * pairs(weight),
        ours.spatio_temporal_graph_fwd: lambda x, *rest, out_shape, **_: 2 * x[-1] * own_pairs(out_shape[0]),
        ours.spatio_temporal_graph_bwd: lambda dweight, x, *rest, **_: 4 * x[-1] * pairs(dweight),
        ours.edge_attention_fwd: lambda *shapes, **_: 4 * edge_channels(*shapes[:7]),
        ours.edge_attention_bwd: lambda dout, dscores, *shapes, **_: 8 * edge_channels(*shapes[:7]),
        aten._scaled_dot_product_flash_attention_for_cpu: lambda q, k, v, *rest, **_: sdpa_flop_count(q, k, v),
        aten._scaled_dot_product_flash_attention_for_cpu_backward: lambda dout, q, k, v, *rest, **_: (
            sdpa_backward_flop_count(dout, q, k, v)
        ),
    }


def heads(q: tuple[int, ...]) -> int:
    """H * D for a shape (B, H, N, D)."""
    return q[1] * q[3]


def edge_channels(q, k, v, edge_scale, edge_bias, row_ptr, source) -> int:
    """E * H * D of q (N, H, D) and of source (E,)."""
    return source[0] * q[1] * q[2]


def pairs(weight: tuple[int, ...]) -> int:
    """The number of token pairs of a whole batch for a shape (B, T, P, 2w+1, P), without those outside the clip."""
    B, T, P, O, _ = weight
    return B * P**2 * sum(T - abs(o) for o in range(-(O // 2), O // 2 + 1))


def own_pairs(weight: tuple[int, ...]) -> int:
    """Like `pairs`, but each pair of frames counts once."""
    B, T, P, O, _ = weight
    return B * P**2 * sum(T - o for o in range(O // 2 + 1))
