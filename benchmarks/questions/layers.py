"""16. How much faster than PyTorch's are dense attention and linear layers, at the sizes of the models?

Both sides compute the results and all gradients, from and to one packed tensor of queries, keys and values.
"""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.agreement import DisagreementError
from benchmarks.case import Bench, Case
from benchmarks.rows import Row
from stgt_kernels import linear, packed_attention
from stgt_kernels.testing import assert_close

OURS, PYTORCH = "stgt_kernels cpu", "PyTorch"
ATTENTION = {
    "quickstart's tower, 65 tokens": dict(B=256, H=4, M=65, N=65, D=16),
    "ViT-B/16, 197 tokens": dict(B=16, H=12, M=197, N=197, D=64),
    "ViT-g/14, 257 tokens": dict(B=8, H=16, M=257, N=257, D=88),
    "8 frames of a patch": dict(B=2080, H=4, M=8, N=8, D=16),
    "queries and tokens of a clip": dict(B=96, H=4, M=8, N=136, D=32),
}
LINEAR = {
    "quickstart's tower, wider": dict(M=16640, K=64, N=256),
    "quickstart's tower, narrower": dict(M=16640, K=256, N=64),
    "quickstart's Q-Former, wider": dict(M=1216, K=128, N=512),
}
LARGE_LINEAR = {
    "ViT-B's graph transformer, wider": dict(M=3152, K=768, N=3072),
    "ViT-B's Q-Former, narrower": dict(M=192, K=3072, N=768),
    "ViT-B's prediction head": dict(M=21, K=768, N=30523),
}


def cases(device: str, quick: bool) -> list[Case]:
    sizes = [(attention_case_name(name), attention_call, shape) for name, shape in ATTENTION.items()]
    sizes += [(linear_case_name(name), linear_call, shape) for name, shape in (LINEAR | LARGE_LINEAR).items()]
    return [Case(name, partial(compare, make=make, shape=shape)) for name, make, shape in sizes[: 1 if quick else None]]


def attention_case_name(name: str) -> str:
    return f"packed_attention, {name}, forward + backward"


def linear_case_name(name: str) -> str:
    return f"linear, {name}, forward + backward"


def compare(bench: Bench, *, make: Callable, shape: dict[str, int]) -> list[Row]:
    if bench.device.type != "cpu":
        return [Row(OURS, "fp32", dict(shape), missing="it calls PyTorch's function outside of the CPU")]
    call, flops = make(shape, torch.float32), work(shape)
    exact, plain = (make(shape, dtype)(PYTORCH) for dtype in (torch.float64, torch.float32))
    for number, (found, same, right) in enumerate(zip(call(OURS), plain, exact, strict=True)):
        try:
            assert_close(found, same, right, f"result {number}")
        except AssertionError as error:
            raise DisagreementError(str(error)) from error
    times = bench.measure({name: partial(call, name) for name in (PYTORCH, OURS)}, bench.seconds)
    return [
        Row.timed(name, "fp32", dict(shape), timing, flops=flops, limit=bench.limits.seconds(flops, 0, "fp32"))
        for name, timing in times.items()
    ]


def attention_call(shape: dict[str, int], dtype: torch.dtype) -> Callable[[str], list[Tensor]]:
    """A function of a provider's name: the result and the gradients of the packed tensors."""
    B, H, M, N, D = shape.values()
    generator = torch.Generator().manual_seed(0)
    sizes = [(N, 3)] if M == N else [(M, 1), (N, 2)]
    packed = [torch.randn(B, rows, parts, H, D, generator=generator).to(dtype) for rows, parts in sizes]
    dout = torch.randn(B, M, H, D, generator=generator).to(dtype)
    packed = [tensor.requires_grad_() for tensor in packed]

    def pytorch(*packed: Tensor) -> Tensor:
        q, k, v = (part.transpose(1, 2) for tensor in packed for part in tensor.unbind(2))
        return F.scaled_dot_product_attention(q, k, v).transpose(1, 2)

    return partial(results, {PYTORCH: pytorch, OURS: packed_attention}, packed, dout)


def linear_call(shape: dict[str, int], dtype: torch.dtype) -> Callable[[str], list[Tensor]]:
    """A function of a provider's name: the result and the gradients of input, weight and bias."""
    M, K, N = shape.values()
    generator = torch.Generator().manual_seed(0)
    sizes = ((M, K), (N, K), (N,), (M, N))
    *leaves, dout = (torch.randn(size, generator=generator).to(dtype) for size in sizes)
    leaves = [tensor.requires_grad_() for tensor in leaves]
    return partial(results, {PYTORCH: F.linear, OURS: linear}, leaves, dout)


def results(functions: dict[str, Callable], leaves: list[Tensor], dout: Tensor, name: str) -> list[Tensor]:
    out = functions[name](*leaves)
    return [out.detach(), *torch.autograd.grad(out, leaves, dout)]


def work(shape: dict[str, int]) -> int:
    """The operations of attention, two products forward and five backward, or of a linear layer, one and two."""
    if "H" in shape:
        return 14 * shape["B"] * shape["H"] * shape["M"] * shape["N"] * shape["D"]
    return 6 * shape["M"] * shape["K"] * shape["N"]
