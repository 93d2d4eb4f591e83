"""How far the kernels' gradients may lie from float64.

The backward pass of graph attention uses other formulas than autograd. It computes the probabilities again from the
log-sum-exp, and subtracts from each score's gradient one number for its row, delta = sum(dout * out). If a token's
neighbours have nearly the same values, the result is far smaller than the numbers that are subtracted, whose rounding
remains. So a kernel may err as much as the same formulas in plain PyTorch do, plus a floor that is a share of the size
of these terms. The gradients of the graph are differences of larger terms, too.
"""

import torch
from torch import Tensor

from stgt_kernels import SpatioTemporalGraph
from stgt_kernels.ops.graph_attention.reference import graph_attention_dense
from stgt_kernels.testing import assert_close

FORWARD = ("out", "lse")


def assert_attention_errors(
    actual: dict[str, Tensor],
    q: Tensor,
    k: Tensor,
    v: Tensor,
    graph: SpatioTemporalGraph,
    dout: Tensor,
    dlse: Tensor | None = None,
    *,
    scale: float | None = None,
    keep: Tensor | None = None,
    keep_prob: float = 1.0,
) -> None:
    """Fails if one of a backend's results errs more than ``stgt_kernels.testing.assert_close`` allows.

    actual: some of out, lse, dq, dk, dv and dweight. The arguments are those of the backend; keep: (B, H, N, N) bool
    dropout mask, keep_prob: what dropout divides by.
    """
    options = dict(scale=q.shape[-1] ** -0.5 if scale is None else scale, keep=keep, keep_prob=keep_prob)
    plain = formulas(q, k, v, graph, dout, dlse, **options)
    wide = [None if t is None else t.double() for t in (q, k, v, dout, dlse)]
    wide.insert(3, SpatioTemporalGraph(graph.weight.detach().double()))
    exact, terms = definition(*wide, **options), term_sizes(*wide, **options)
    for name, value in actual.items():
        dtype = None if name in FORWARD else q.dtype  # a gradient's dtype may be finer than that of its computation
        assert_close(value, plain[name], exact[name], name, dtype=dtype, terms=terms.get(name, 0.0))


def definition(q, k, v, graph, dout, dlse=None, *, scale, keep=None, keep_prob=1.0) -> dict[str, Tensor]:
    """out, lse, dq, dk, dv and dweight, with autograd's gradients of the definition."""
    leaves = [t.detach().requires_grad_() for t in (q, k, v, graph.weight)]
    weight = SpatioTemporalGraph(leaves[3]).to_dense().to(q.dtype)
    out, lse = graph_attention_dense(*leaves[:3], weight, scale=scale, keep=keep, keep_prob=keep_prob)
    outputs, grads = ((out, lse), (dout, dlse)) if dlse is not None else ((out,), (dout,))
    gradients = torch.autograd.grad(outputs, leaves, grads)
    return dict(zip(("out", "lse", "dq", "dk", "dv", "dweight"), (out.detach(), lse.detach(), *gradients), strict=True))


def formulas(q, k, v, graph, dout, dlse=None, *, scale, keep=None, keep_prob=1.0) -> dict[str, Tensor]:
    """The same by the kernels' formulas. Every step is computed in q's dtype."""
    stored = graph.weight.detach().requires_grad_()
    dense = SpatioTemporalGraph(stored).to_dense()
    weight = dense.detach().to(q.dtype)
    out, lse = graph_attention_dense(q, k, v, weight, scale=scale, keep=keep, keep_prob=keep_prob)
    weight, product = weight[:, None], (q @ k.mT) * scale
    probability = torch.exp(product * weight - lse[..., None]).masked_fill(weight == 0, 0)
    kept = torch.ones_like(probability) if keep is None else keep.to(q.dtype) / keep_prob
    delta = (dout * out).sum(-1) - (0 if dlse is None else dlse.to(q.dtype))
    dscore = probability * ((dout @ v.mT) * kept - delta[..., None])
    (dweight,) = torch.autograd.grad(dense, stored, (dscore * product).sum(1).to(dense.dtype))
    dq, dk = (dscore * weight) @ k * scale, (dscore * weight).mT @ q * scale
    return dict(out=out, lse=lse, dq=dq, dk=dk, dv=(probability * kept).mT @ dout, dweight=dweight)


def term_sizes(q, k, v, graph, dout, dlse=None, *, scale, keep=None, keep_prob=1.0) -> dict[str, float]:
    """The largest size, over all elements, of the terms whose differences are lse, dq, dk and dweight.

    The rounding errors of terms are independent, so the size is the root of the sum of the terms' squares.
    """
    weight = graph.to_dense()[:, None]
    out, lse = graph_attention_dense(q, k, v, weight[:, 0], scale=scale, keep=keep, keep_prob=keep_prob)
    scores = (q.square() @ k.square().mT) * weight.square()
    probability = torch.exp((q @ k.mT) * scale * weight - lse[..., None]).masked_fill(weight == 0, 0)
    q, k, v, out, dout = (t.square() for t in (q, k, v, out, dout))
    kept = torch.ones_like(probability) if keep is None else keep / keep_prob
    delta = (dout * out).sum(-1) + (0 if dlse is None else dlse.square())
    dscore = probability.square() * ((dout @ v.mT) * kept.square() + delta[..., None])
    squares = dict(
        lse=scores,
        dq=(dscore * weight.square()) @ k,
        dk=(dscore * weight.square()).mT @ q,
        dweight=(dscore * (q @ k.mT)).sum(1),
    )
    return {name: abs(scale) * square.nan_to_num(0, 0, 0).max().sqrt().item() for name, square in squares.items()}


def graph_term_size(x: Tensor, graph: SpatioTemporalGraph, dweight: Tensor) -> float:
    """The same for x's gradient through the graph's weights: the part of a sum of unit tokens that is orthogonal to x.

    With g_ij the gradients of the weights between i and j, and u = x / |x|:
    dx_i = (sum_j g_ij u_j - u_i sum_j g_ij u_i . u_j) / |x_i|.
    """
    x = x.double().flatten(1, 2)
    norm = x.norm(dim=-1, keepdim=True).clamp(min=torch.finfo(torch.float64).tiny)
    unit = x / norm
    kept = torch.where(graph.weight != 0, dweight.double(), 0)
    gradient = SpatioTemporalGraph(kept).to_dense()
    gradient = gradient + gradient.mT
    along = gradient * (unit @ unit.mT)
    total, radial = gradient @ unit, along.sum(-1, keepdim=True) * unit
    inside = gradient.square() @ unit.square() + along.square().sum(-1, keepdim=True) * unit.square()
    return max((part / norm).abs().max().item() for part in (total, radial, inside.sqrt()))
