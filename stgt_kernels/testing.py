"""How far a kernel's result may lie from the exact one, for the tests of this package and of packages that use it.

The exact result is the reference in float64. A kernel in a dtype may err twice as much as the same formula in plain
PyTorch does in that dtype, plus a floor for the rounding of the result itself.
"""

import torch
from torch import Tensor

from stgt_kernels.graph import SpatioTemporalGraph
from stgt_kernels.ops.graph_attention import reference as attention_reference
from stgt_kernels.ops.spatio_temporal_graph import reference as graph_reference
from stgt_kernels.rounding import compared_threshold, similarity_error

# The error that rounding alone may cause, as a share of the largest exact magnitude. It is 4 units in the last place.
# In float64 plain PyTorch is itself the exact result and shows no error, so the floor covers the sum of a long row.
FLOOR = {dtype: 4 * torch.finfo(dtype).eps for dtype in (torch.float32, torch.float16, torch.bfloat16)}
FLOOR[torch.float64] = 1e-13


def assert_close(
    actual: Tensor,
    plain: Tensor,
    exact: Tensor,
    name: str = "result",
    *,
    dtype: torch.dtype | None = None,
    terms: float = 0.0,
) -> None:
    """Fails if ``actual`` lies further from ``exact`` than 2 x the error of ``plain``, plus the dtype's floor.

    actual: from a kernel. plain: the same formula in plain PyTorch, in the same dtype. exact: the reference in float64.
    Infinities and NaN must be in the same places. dtype: the dtype of the computation, if the result's own is finer.
    terms: the size of the terms whose difference is the result. Where they nearly cancel, the floor is a share of it.
    """
    exact = exact.double()
    assert torch.equal(actual.isnan(), exact.isnan()), f"{name}: NaN in other places than the reference"
    infinite = exact.isinf()
    assert torch.equal(actual.double()[infinite], exact[infinite]), f"{name}: infinities differ from the reference"
    finite = exact.isfinite()
    if not finite.any():
        return
    error = (actual.double() - exact)[finite].abs().max().item()
    plain_error = (plain.double() - exact)[finite].abs().nan_to_num(0, 0).max().item()
    allowed = 2 * plain_error + FLOOR[dtype or actual.dtype] * max(exact[finite].abs().max().item(), terms)
    assert error <= allowed, f"{name}: off by {error:.3g}, allowed {allowed:.3g} (plain PyTorch: {plain_error:.3g})"


def assert_graph_close(graph: SpatioTemporalGraph, x: Tensor, threshold: float | None, window: int) -> int:
    """Fails if a weight is off, or if an edge differs from the float64 definition and is not close to the threshold.

    An edge is close if its exact similarity lies within ``stgt_kernels.rounding.similarity_error`` of the threshold, or
    of the number that takes the threshold's place (``compared_threshold``). A weight may err by as much.
    graph: from a kernel. x: (B, T, P, C), the tokens. threshold: None for a graph of ``token_similarity``.
    Returns the number of edges that differ for this reason.
    """
    bound = similarity_error(x.shape[-1], x.dtype)
    exact = graph_reference.spatio_temporal_graph(x.double(), threshold, window).weight
    kept = graph.weight != 0
    differs = kept != (exact != 0)
    if differs.any():
        similarity = graph_reference.spatio_temporal_graph(x.double(), None, window).weight
        distance, in_doubt = similarity.abs(), bound
        if threshold is not None:
            distance = (similarity - threshold).abs()
            in_doubt += abs(threshold - compared_threshold(threshold, x.shape[-1], x.dtype))
        # A similarity that storage rounds to zero is no edge either.
        representable = similarity.abs() > torch.finfo(graph.weight.dtype).smallest_normal
        certain = (distance > in_doubt) & representable
        assert not (differs & certain).any(), f"{int((differs & certain).sum())} edges differ away from the threshold"
    plain = graph_reference.spatio_temporal_graph(x, threshold, window).weight
    actual, plain, exact = (weight.masked_fill(differs, 0) for weight in (graph.weight, plain, exact))
    assert_close(actual, plain, exact, "weight", terms=bound / FLOOR[actual.dtype])
    return int(differs.sum())


def exact_attention(
    q: Tensor, k: Tensor, v: Tensor, graph: SpatioTemporalGraph, *, scale: float | None = None
) -> tuple[Tensor, Tensor]:
    """The exact output (B, H, N, D) and log-sum-exp (B, H, N), by the reference in float64. Differentiable.

    q, k, v: (B, H, N, D). scale: the factor of the scores; the default is ``D ** -0.5``.
    """
    factor: float = q.shape[-1] ** -0.5 if scale is None else scale
    wide = graph.to(torch.float64)
    return attention_reference.graph_attention(q.double(), k.double(), v.double(), wide, factor, 0.0, None)


def video_like_tokens(
    B: int, T: int, P: int, C: int, *, dtype: torch.dtype = torch.float32, device: str = "cpu", seed: int = 0
) -> Tensor:
    """Tokens (B, T, P, C) whose graph is as dense as that of real video: about 80% of the pairs at threshold 0.5.

    The tokens of a clip share a mean, and patches keep their content over frames. Gaussian noise would give a graph in
    which each token has an edge to itself alone.
    """
    generator = torch.Generator().manual_seed(seed)
    clip = torch.randn(B, 1, 1, C, generator=generator)
    patch = torch.randn(B, 1, P, C, generator=generator)
    strength = 0.4 * torch.exp(torch.randn(B, 1, P, 1, generator=generator))
    noise = 0.3 * torch.randn(B, T, P, C, generator=generator)
    return (clip + strength * (patch + noise)).to(device=device, dtype=dtype)
