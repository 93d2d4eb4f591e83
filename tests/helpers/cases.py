"""Inputs of the kernel tests, and the comparison with the definition that most of them end in.

Inputs are made, and results compared, on the CPU; in between they are where the backend runs.
"""

from collections.abc import Callable
from contextlib import nullcontext

import pytest
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from helpers.bounds import assert_attention_errors
from helpers.poison import poisoned_memory
from stgt_kernels import SpatioTemporalGraph, dispatch, graph_attention, spatio_temporal_graph
from stgt_kernels.graph import storage_dtype
from stgt_kernels.ops.graph_attention import philox
from stgt_kernels.testing import video_like_tokens

GPU_BACKENDS = ("cuda", "triton")
KERNELS = ("cpu", *(GPU_BACKENDS if torch.cuda.is_available() else ()))
BACKENDS = (*KERNELS, "reference")
each_kernel = pytest.mark.parametrize("backend", KERNELS)
each_backend = pytest.mark.parametrize("backend", BACKENDS)
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def on(backend: str, *values):
    """Moves tensors and graphs to the backend's device, with the same layout. Skips the test if it lacks the dtype."""
    for dtype in {x.dtype for x in pytree.tree_leaves(values) if isinstance(x, Tensor) and x.is_floating_point()}:
        if reason := dispatch.why_not(backend, device_of(backend), dtype):
            pytest.skip(reason)
    return moved(values if len(values) > 1 else values[0], device_of(backend))


def device_of(backend: str) -> str:
    return "cuda" if backend in GPU_BACKENDS and not dispatch.interpreted() else "cpu"


def moved(values, device: str):
    return pytree.tree_map_only(Tensor, lambda x: x if x.device.type == device else copied(x, device), values)


def copied(x: Tensor, device: str) -> Tensor:
    """A copy of x on another device, with the memory around x and with its strides."""
    memory = torch.empty(0, dtype=x.dtype).set_(x.detach().untyped_storage()).to(device)
    return memory.as_strided(x.shape, x.stride(), x.storage_offset())


def dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def video_graph(
    B: int,
    T: int,
    P: int,
    *,
    window: int = 1,
    threshold: float = 0.5,
    dtype: torch.dtype = torch.float32,
    differentiable: bool = False,
    seed: int = 0,
) -> SpatioTemporalGraph:
    """A graph like that of video, with weights for attention in ``dtype``, float32 at least if differentiable."""
    x = video_like_tokens(B, T, P, 32, seed=seed)
    graph = spatio_temporal_graph(x, threshold=threshold, window=window, backend="reference")
    return graph.to(storage_dtype(dtype, differentiable))


def heads(
    B: int, H: int, N: int, D: int, *, dtype: torch.dtype = torch.float32, layout: str = "heads", seed: int = 0
) -> Tensor:
    """Normal numbers (B, H, N, D) in one of the layouts that callers use. Memory around the values is NaN."""
    generator = torch.Generator().manual_seed(1000 + seed)
    values = torch.randn(B, H, N, D, generator=generator, dtype=torch.float64).to(dtype)
    if layout == "contiguous":
        return values
    nan = float("nan")
    memory = {
        "heads": lambda: torch.full((B, N, H, D), nan, dtype=dtype).transpose(1, 2),
        "packed": lambda: torch.full((B, N, 3, H, D), nan, dtype=dtype)[:, :, 1].transpose(1, 2),
        "padded": lambda: torch.full((B, H, N + 3, D + 5), nan, dtype=dtype)[:, :, 1 : N + 1, 3 : D + 3],
        "strided": lambda: torch.full((B, H, N, 2 * D), nan, dtype=dtype)[..., ::2],
        "transposed": lambda: torch.full((B, H, D, N), nan, dtype=dtype).transpose(2, 3),
    }[layout]()
    return memory.copy_(values)


LAYOUTS = ("contiguous", "heads", "packed", "padded", "strided", "transposed")


def with_gradients(
    attend: Callable, q: Tensor, k: Tensor, v: Tensor, graph: SpatioTemporalGraph, dout: Tensor, dlse: Tensor | None
) -> dict[str, Tensor]:
    """out, lse, dq, dk, dv of ``attend(q, k, v, graph) -> (out, lse)``, and dweight if it is not in float16."""
    leaves = [t.detach().requires_grad_() for t in (q, k, v)]
    weight = graph.weight.detach()
    if weight.dtype != torch.float16:
        leaves.append(weight.requires_grad_())
    # Attention would derive the map anew if the graph's weights were a parameter, which a view is not.
    out, lse = attend(*leaves[:3], SpatioTemporalGraph._with_live(weight.view_as(weight), graph.live))
    outputs, grads = ((out, lse), (dout, dlse)) if dlse is not None else ((out,), (dout,))
    gradients = torch.autograd.grad(outputs, leaves, grads)
    names = ("dq", "dk", "dv", "dweight")[: len(leaves)]
    return dict(out=out.detach(), lse=lse.detach(), **dict(zip(names, gradients, strict=True)))


def run_attention(q, k, v, graph, dout, dlse=None, *, backend: str, **options) -> dict[str, Tensor]:
    """The same results of a backend. Kernels run in poisoned memory."""
    q, k, v, weight, live, dout, dlse = on(backend, q, k, v, graph.weight, graph.live, dout, dlse)
    graph = SpatioTemporalGraph._with_live(weight, live)  # the map may be one that the test made up

    def attend(q, k, v, graph):
        return graph_attention(q, k, v, graph, return_lse=True, backend=backend, **options)

    with nullcontext() if backend == "reference" else poisoned_memory():
        result = with_gradients(attend, q, k, v, graph, dout, dlse)
    return {name: tensor.cpu() for name, tensor in result.items()}


def assert_attention_close(
    q, k, v, graph, dout=None, dlse=None, *, scale: float | None = None, backend: str
) -> dict[str, Tensor]:
    """Compares both passes of a backend with the definition, within the errors that stgt_kernels.testing allows."""
    dout = heads(*q.shape, dtype=q.dtype, seed=7) if dout is None else dout
    actual = run_attention(q, k, v, graph, dout, dlse, backend=backend, scale=scale)
    assert_attention_errors(actual, q, k, v, graph, dout, dlse, scale=scale)
    return actual


def overflowing(dtype: torch.dtype, differentiable: bool = False) -> tuple[Tensor, Tensor, Tensor, SpatioTemporalGraph]:
    """q, k, v and a graph of 8 tokens. Row 0 and column 0 have one edge, whose score overflows to -inf.

    Only the sum of the products overflows, not each product, which tensor cores might treat in another way.
    """
    q, k, v = (heads(1, 1, 8, 8, dtype=dtype, layout="contiguous", seed=seed) for seed in range(3))
    q[:, :, 0], k[:, :, 0] = 1.5e19, -1.5e19
    weight = torch.ones(1, 8, 8)
    weight[:, 0, 1:] = weight[:, 1:, 0] = 0
    return q, k, v, SpatioTemporalGraph.from_dense(weight.to(storage_dtype(dtype, differentiable)))


def assert_nothing_of_row_0(result: dict[str, Tensor]) -> None:
    """Checks results for the inputs of `overflowing`. The gradient of the edge's weight, 0 times -inf, may be NaN."""
    assert result["lse"][0, 0, 0].isneginf() and result["lse"][0, 0, 1:].isfinite().all()
    for name in ("out", "dq", "dk", "dv"):
        assert not result[name][0, 0, 0].any() and result[name][0, 0, 1:].isfinite().all(), name
        assert result[name][0, 0, 1:].any(), name


def assert_nothing_without(missing: str, backend: str) -> None:
    """Checks attention without samples (B), heads (H), frames (T) or patches (P): empty results, gradients of 0."""
    B, H, T, P = (size * (name != missing) for name, size in dict(B=1, H=2, T=2, P=3).items())
    weight = on(backend, torch.rand(B, T, P, 1, P)).requires_grad_()
    q = on(backend, torch.randn(B, H, T * P, 8)).requires_grad_()
    out, lse = graph_attention(q, q, q, SpatioTemporalGraph(weight), return_lse=True, backend=backend)
    assert out.shape == q.shape and lse.shape == q.shape[:3]
    dq, dweight = torch.autograd.grad(out.sum() + lse.sum(), (q, weight))
    assert dq.shape == q.shape and dweight.shape == weight.shape and not dweight.any()


def mask_after(manual_seed, B, H, frames, patches, p, backend):
    """The mask that the first call of graph_attention draws after torch.manual_seed."""
    torch.manual_seed(manual_seed)
    seed = torch.randint(2**63 - 1, (1,), device=device_of(backend))
    return philox.keep_mask(seed.cpu(), B, H, frames, patches, p)


def assert_share(bits: Tensor, share: float) -> None:
    """Fails if the share of True bits is 4.5 standard deviations or more from that of independent draws."""
    deviation = (share * (1 - share) / bits.numel()) ** 0.5
    assert abs(bits.double().mean().item() - share) < 4.5 * deviation


def assert_same_bits(a: dict[str, Tensor], b: dict[str, Tensor]) -> None:
    for name in a:
        assert same_bits(a[name], b[name]), f"{name} differs"


def same_bits(a: Tensor, b: Tensor) -> bool:
    integer = {2: torch.int16, 4: torch.int32, 8: torch.int64}[a.element_size()]
    return torch.equal(a.contiguous().view(integer), b.contiguous().view(integer))
