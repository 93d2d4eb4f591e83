"""No report where providers disagree: each is held against float64, within the tolerances of stgt_kernels.testing."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from benchmarks.inputs import AttentionInputs
from benchmarks.providers import band_attention
from stgt_kernels import SpatioTemporalGraph
from stgt_kernels.ops.spatio_temporal_graph import reference
from stgt_kernels.testing import assert_close, assert_graph_close

# How far a model's output may lie from that of the released attention, as a share of its length. Most of it comes from
# similarities at the threshold: the released model rounds them to the compute dtype before it compares.
MODEL_TOLERANCE = {"fp32": 1e-3, "bf16": 5e-2}


class DisagreementError(Exception):
    """Providers computed different things, so that their times cannot be compared."""


def forward_backward(attention: Callable[..., Tensor], *tensors: Tensor) -> tuple[Tensor, ...]:
    """out, dq, dk, dv; tensors: q, k, v, dout."""
    *inputs, dout = tensors
    leaves = [t.detach().requires_grad_() for t in inputs]
    out = attention(*leaves)
    return out.detach(), *torch.autograd.grad(out, leaves, dout)


class AttentionOracle:
    """What attention has to give: in float64, and in plain PyTorch, of the first head and the last."""

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
        """Raises DisagreementError if the results, out and maybe its gradients, are not what they have to be."""
        for name, actual, plain, exact in zip(self.NAMES, results, self.plain, self.exact, strict=False):
            try:
                assert_close(actual[:, self.heads], plain, exact, name)
            except AssertionError as error:
                raise DisagreementError(f"{provider}: {error}") from error


def check_graph(provider: str, graph: SpatioTemporalGraph, x: Tensor, threshold: float, ours: bool) -> None:
    """Raises DisagreementError if a graph is not that of x (B, T, P, C).

    Kernels compare with the threshold before they round. Plain PyTorch rounds similarities to x's dtype first, so that
    its edges may differ wherever that error reaches the threshold.
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
    """Raises DisagreementError if a model's output is further from another's than MODEL_TOLERANCE."""
    error = ((actual.double() - expected.double()).norm() / expected.double().norm()).item()
    if not error <= MODEL_TOLERANCE[dtype]:
        raise DisagreementError(f"{provider}: off by {error:.2g} of its length, allowed {MODEL_TOLERANCE[dtype]:.2g}")
