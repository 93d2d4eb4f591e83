"""Checks that the providers agree: each is compared with float64, within the tolerances of stgt_kernels.testing.

If a provider disagrees, its case gives no rows.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from benchmarks.inputs import AttentionInputs
from benchmarks.providers import band_attention
from stgt_kernels import SpatioTemporalGraph
from stgt_kernels.ops.spatio_temporal_graph import reference
from stgt_kernels.testing import assert_close, assert_graph_close

# The largest norm of the difference between a model's output and the released attention's, relative to the latter's
# norm. Most of the difference comes from similarities near the threshold: the released model rounds them to the compute
# dtype before it compares them.
MODEL_TOLERANCE = {"fp32": 1e-3, "bf16": 5e-2}


class DisagreementError(Exception):
    """The providers computed different results, so their times cannot be compared."""


def forward_backward(attention: Callable[..., Tensor], *tensors: Tensor) -> tuple[Tensor, ...]:
    """Returns (out, dq, dk, dv) for tensors (q, k, v, dout)."""
    *inputs, dout = tensors
    leaves = [t.detach().requires_grad_() for t in inputs]
    out = attention(*leaves)
    return out.detach(), *torch.autograd.grad(out, leaves, dout)


class AttentionOracle:
    """The expected results of attention for the first and the last head: in float64, and in plain PyTorch."""

    NAMES = ("out", "dq", "dk", "dv")

    def __init__(self, inputs: AttentionInputs, backward: bool) -> None:
        self.heads = sorted({0, inputs.problem.H - 1})
        self.exact = self._compute(inputs, torch.float64, backward)
        self.plain = self._compute(inputs, inputs.q.dtype, backward)

    def _compute(self, inputs: AttentionInputs, dtype: torch.dtype, backward: bool) -> Sequence[Tensor]:
        weight = inputs.graph.weight.to(dtype)
        tensors = [t[:, self.heads].to(dtype) for t in inputs.tensors]
        if backward:
            return forward_backward(lambda q, k, v: band_attention(q, k, v, weight), *tensors)
        return (band_attention(*tensors[:3], weight),)

    def check(self, provider: str, results: Sequence[Tensor]) -> None:
        """Raises DisagreementError if the results (out, or out and its gradients) exceed the tolerance."""
        for name, actual, plain, exact in zip(self.NAMES, results, self.plain, self.exact, strict=False):
            try:
                assert_close(actual[:, self.heads], plain, exact, name)
            except AssertionError as error:
                raise DisagreementError(f"{provider}: {error}") from error


def check_graph(provider: str, graph: SpatioTemporalGraph, x: Tensor, threshold: float, ours: bool) -> None:
    """Raises DisagreementError if a graph is not the graph of x (B, T, P, C).

    The kernels compare similarities with the threshold before they round them. Plain PyTorch rounds them to x's dtype
    first, so its edges may differ where a similarity is within this rounding error of the threshold.
    """
    try:
        if ours or x.dtype == torch.float32:
            assert_graph_close(graph, x, threshold, graph.window)
            return
        similarity, exact = (
            reference.spatio_temporal_graph(x.float(), h, graph.window).weight for h in (None, threshold)
        )
        rounding = 4 * torch.finfo(x.dtype).eps
        certain = (similarity - threshold).abs() > rounding
        kept = graph.weight != 0
        assert torch.equal(kept[certain], (exact != 0)[certain]), "edges differ away from the threshold"
        error = (graph.weight.float() - similarity)[kept].abs().max().item()
        assert error <= rounding, f"weights are off by {error:.2g}, allowed {rounding:.2g}"
    except AssertionError as error:
        raise DisagreementError(f"{provider}: {error}") from error


def check_model(provider: str, actual: Tensor, expected: Tensor, dtype: str) -> None:
    """Raises DisagreementError if the relative difference of two models' outputs exceeds MODEL_TOLERANCE."""
    error = ((actual.double() - expected.double()).norm() / expected.double().norm()).item()
    if not error <= MODEL_TOLERANCE[dtype]:
        raise DisagreementError(f"{provider}: off by {error:.2g} of its norm, allowed {MODEL_TOLERANCE[dtype]:.2g}")
