"""Launches of the Triton kernels of graph attention (triton_fwd.py, triton_bwd.py), as leaf operators of torch."""

import torch
import triton
from torch import Tensor

from stgt_kernels.graph import TILE
from stgt_kernels.ops.graph_attention import philox
from stgt_kernels.ops.graph_attention.triton_bwd import (
    graph_attention_bwd_delta_kernel,
    graph_attention_bwd_dkdv_kernel,
    graph_attention_bwd_dq_kernel,
    graph_attention_bwd_dweight_kernel,
)
from stgt_kernels.ops.graph_attention.triton_common import live_tiles_kernel, split_head_dim
from stgt_kernels.ops.graph_attention.triton_fwd import graph_attention_fwd_kernel
from stgt_kernels.ops.layout import heads_last, last_contiguous, vector_strides
from stgt_kernels.ops.vmap import fold_into_batch


def arithmetic(dtype: torch.dtype) -> str:
    """The unit that multiplies: tensor cores in ``half`` or ``tf32``, or ``ieee`` multiply-adds."""
    if dtype != torch.float32:
        return "half"
    return "tf32" if torch.backends.cuda.matmul.fp32_precision == "tf32" else "ieee"


def launch_config(
    kernel: str, unit: str, D: int, T: int, P: int, dropout: bool, capability: tuple[int, int], wide_weights: bool
) -> dict[str, int]:
    """Blocks, warps and pipeline stages of a kernel, picked from the compiler's reports.

    They are the largest that spill no registers and fit the shared memory: 227 KB on Hopper and Blackwell's data-centre
    parts, 163 KB on the A100, 99 KB elsewhere. wide_weights: whether the weights are float32 beside half-precision
    q, k and v. A thread then holds twice as many bytes of them.
    """
    width = sum(split_head_dim(D))
    if unit != "half":
        roomy = kernel in ("fwd", "dweight") or width <= 96 or capability == (8, 0) or capability[0] in (9, 10)
        stages = 2 if roomy else 1
        if unit == "tf32":
            return dict(BM=64, BN=16 if kernel == "dkdv" else 32, num_warps=4, num_stages=stages)
        if kernel == "dkdv":
            return dict(BM=64, BN=32 if width <= 64 else 16, num_warps=16 if 64 < width <= 96 else 8, num_stages=2)
        if kernel == "dweight":
            return dict(BM=64, BN=64 if width <= 64 else 32, num_warps=8 if width <= 64 else 16, num_stages=2)
        return dict(BM=64, BN=32, num_warps=8, num_stages=3 if kernel == "dq" and width <= 64 else stages)
    # A block of 128 spans two tiles and halves the traffic of K and V, but both tiles are processed if either holds an
    # edge. It is used for video, which is dense within its window, if a frame has more than one tile.
    block = dict(BM=128, num_warps=8) if T > 1 and P > TILE else dict(BM=64, num_warps=4)
    if capability[0] in (9, 10):
        if kernel == "dweight":
            return dict(BM=64, BN=64, num_warps=8, num_stages=2)
        if kernel == "dkdv" and wide_weights:
            rows = 64 if dropout and width > 64 else block["BM"]
            return dict(BM=rows, BN=32, num_warps=8, num_stages=2)
        if kernel == "dkdv":
            fits = width <= 96 and P % 128 == 0 and block["BM"] == 128 and not dropout
            return dict(**block, BN=64 if fits else 32, num_stages=2)
        return dict(**block, BN=64, num_stages=3)
    if kernel == "dweight":
        return dict(BM=64, BN=32, num_warps=4, num_stages=2)
    if kernel == "dkdv":
        return dict(BM=64, BN=32 if width <= 64 else 16, num_warps=4, num_stages=2)
    return dict(**block, BN=64 if kernel == "fwd" or width <= 64 else 32, num_stages=2)


def capability(x: Tensor) -> tuple[int, int]:
    """The compute capability of the GPU that holds x. For Triton's interpreter, which has no GPU, it is Hopper's."""
    return torch.cuda.get_device_capability(x.device) if x.is_cuda else (9, 0)


class Launch:
    """The arguments that the kernels of one pass share."""

    def __init__(self, tensors: tuple[Tensor, ...], weight: Tensor, live: Tensor, scale: float, dropout_p: float):
        q = tensors[0]
        self.B, self.H, self.N, self.D = q.shape
        _, self.T, self.P, self.O, _ = weight.shape
        self.live, self.device, self.dropout = live, q.device, dropout_p > 0
        self.unit = arithmetic(q.dtype)
        self.wide_weights = self.unit == "half" and weight.dtype == torch.float32
        self.capability = capability(q)
        D0, D1 = split_head_dim(self.D)
        vec, self.strides = vector_strides(*tensors)
        dropped, kept = philox.drop_threshold(dropout_p), philox.keep_prob(dropout_p)
        self.runtime = (self.H, self.T, self.O, scale, dropped, 1 / kept)
        precision = "tf32" if self.unit == "tf32" else "ieee"
        head_dim = dict(D=self.D, D0=D0, D1=D1, VEC=vec)
        self.constants = dict(P=self.P, TILE=TILE, DROPOUT=self.dropout, PRECISION=precision, **head_dim)

    def config(self, kernel: str) -> dict[str, int]:
        """The blocks, warps and stages of a kernel of this pass, from `launch_config`."""
        sizes = (self.D, self.T, self.P)
        return launch_config(kernel, self.unit, *sizes, self.dropout, self.capability, self.wide_weights)

    def blocks(self, block: int) -> int:
        """The number of blocks of this many tokens in all frames of all samples."""
        return self.B * self.T * triton.cdiv(self.P, block)

    def live_tiles(self, block: int, columns: bool) -> tuple[Tensor, Tensor]:
        """For each block of rows, the tiles of columns that hold an edge, and their number.

        columns: whether to list the tiles of rows for each block of columns instead.
        """
        lists, n = self.blocks(block), triton.cdiv(self.P, TILE)
        length = self.O * n
        tiles = torch.empty(lists * (length + 1), dtype=torch.int32, device=self.device)
        count = torch.empty(lists, dtype=torch.int32, device=self.device)
        constants = dict(GROUP=block // TILE, COLUMNS=columns, BLOCK=min(triton.next_power_of_2(length), 1024))
        live_tiles_kernel[(lists,)](self.live, tiles, count, self.T, self.O, n, **constants)
        return tiles, count


@torch.library.custom_op("stgt_kernels::graph_attention_fwd_triton", mutates_args=())
def forward(
    q: Tensor, k: Tensor, v: Tensor, weight: Tensor, live: Tensor, seed: Tensor | None, scale: float, dropout_p: float
) -> tuple[Tensor, Tensor]:
    """q, k, v (B, H, N, D), weight (B, T, P, O, P), live (B, T, n, O, n) -> out (B, H, N, D), lse (B, H, N)."""
    if scale <= 0:  # the kernel multiplies its running maximum by the scale, which must be positive
        q, scale = q * (-1 if scale < 0 else 0), -scale or 1.0
    q, k, v = (last_contiguous(t) for t in (q, k, v))
    weight, live = weight.contiguous(), live.contiguous()
    launch = Launch((q, k, v), weight, live, scale, dropout_p)
    outputs = heads_last(q), q.new_empty(q.shape[:3], dtype=torch.float32)
    if q.numel() == 0:
        return outputs
    arguments, config = (*launch.strides, *launch.runtime), launch.config("fwd")
    with torch.cuda.device_of(q):
        lists = launch.live_tiles(config["BM"], columns=False)
        graph_attention_fwd_kernel[(launch.blocks(config["BM"]) * launch.H,)](
            q, k, v, weight, *lists, seed, *outputs, *arguments, **launch.constants, **config
        )
    return outputs


@forward.register_fake
def _(q, k, v, weight, live, seed, scale, dropout_p):
    return heads_last(q), q.new_empty(q.shape[:3], dtype=torch.float32)


@torch.library.custom_op("stgt_kernels::graph_attention_bwd_triton", mutates_args=())
def backward_op(
    dout: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    weight: Tensor,
    live: Tensor,
    seed: Tensor | None,
    out: Tensor,
    lse: Tensor,
    dlse: Tensor | None,
    scale: float,
    dropout_p: float,
    need_dweight: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Returns dq, dk, dv, and dweight, which is empty if it is not needed.

    out: as forward gave it. lse, dlse: (B, H, N) float32.
    """
    dout, q, k, v = (last_contiguous(t) for t in (dout, q, k, v))
    weight, live, lse = (t.contiguous() for t in (weight, live, lse))
    out, dlse = out.transpose(1, 2).contiguous(), None if dlse is None else dlse.contiguous()
    delta = torch.empty_like(lse)
    launch = Launch((dout, q, k, v), weight, live, scale, dropout_p)
    inputs, rows = (dout, q, k, v, weight), (seed, lse, delta)
    arguments = (*launch.strides, *launch.runtime)
    dq, dk, dv = heads_last(q), heads_last(q), heads_last(q)
    dweight = weight.new_empty(weight.shape if need_dweight else (0,))
    if q.numel() == 0:  # there may be weights even so, but no heads whose gradients could be added up
        return dq, dk, dv, dweight.zero_()
    with torch.cuda.device_of(q):
        rows_per_program = 16
        graph_attention_bwd_delta_kernel[(triton.cdiv(delta.numel(), rows_per_program),)](
            dout, out, dlse, delta, *launch.strides[:3], launch.H, launch.N, delta.numel(),
            D=launch.D, VEC=launch.constants["VEC"], BM=rows_per_program, BD=triton.next_power_of_2(launch.D),
        )  # fmt: skip
        config = launch.config("dkdv")
        lists = launch.live_tiles(config["BM"], columns=True)
        graph_attention_bwd_dkdv_kernel[(launch.blocks(config["BM"]) * launch.H,)](
            *inputs, *lists, *rows, dk, dv, *arguments, **launch.constants, **config
        )
        config = launch.config("dq")
        lists = launch.live_tiles(config["BM"], columns=False)
        graph_attention_bwd_dq_kernel[(launch.blocks(config["BM"]) * launch.H,)](
            *inputs, *lists, *rows, dq, *arguments, **launch.constants, **config
        )
        if need_dweight:
            config = launch.config("dweight")
            del config["BM"]  # this kernel always takes the rows of one tile
            graph_attention_bwd_dweight_kernel[(live.numel() * (TILE // config["BN"]),)](
                *inputs, live, *rows, dweight, *arguments, **launch.constants, **config
            )
    return dq, dk, dv, dweight


@backward_op.register_fake
def _(dout, q, k, v, weight, live, seed, out, lse, dlse, scale, dropout_p, need_dweight):
    dweight = weight.new_empty(weight.shape if need_dweight else (0,))
    return heads_last(q), heads_last(q), heads_last(q), dweight


def backward(*args) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """dq, dk, dv (B, H, N, D), and the gradient of the weights, or None if it is not needed."""
    dq, dk, dv, dweight = backward_op(*args)
    need_dweight = args[-1]
    return dq, dk, dv, dweight if need_dweight else None


forward.register_vmap(fold_into_batch(forward))
backward_op.register_vmap(fold_into_batch(backward_op))
