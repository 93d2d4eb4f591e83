"""Finds out which launches the ops make on a given GPU, without having it: runs csrc/cuda's host code on CPU tensors.

runtime.cpp replaces the CUDA runtime. It refuses the launches that a GPU would refuse, and records the others.
"""

import ctypes
import functools
import itertools
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.utils import cpp_extension

from stgt_kernels import _C as _C  # the schemas of the ops
from stgt_kernels.graph import storage_dtype
from tools.compiled import machine_code

KB = 1024


@dataclass(frozen=True)
class Gpu:
    """Limits of a GPU, from the CUDA programming guide's table of technical specifications per compute capability.

    `threads` and `blocks` are the most that a multiprocessor holds at the same time.
    """

    capability: tuple[int, int]
    multiprocessors: int
    shared_per_block: int
    """The most bytes of shared memory that a block may ask for"""
    shared: int
    """Bytes per multiprocessor; each block takes 1 KB more than it asks for"""
    threads: int
    blocks: int

    @property
    def architecture(self) -> str:
        """The architecture whose code runs on this GPU. GPUs newer than Hopper compile the PTX of sm_80."""
        return "sm_90a" if self.capability == (9, 0) else "sm_80"

    def blocks_at_once(self, threads: int, registers: int, shared: int) -> int:
        """How many blocks fit on a multiprocessor at the same time. A warp gets its registers in units of 256."""
        warps = -(-threads // 32)
        by_registers = 65536 // (warps * -(-registers * 32 // 256) * 256)
        return min(self.blocks, self.threads // (32 * warps), by_registers, self.shared // (shared + KB))


GPUS = {
    "A100": Gpu((8, 0), 108, 163 * KB, 164 * KB, 2048, 32),
    "RTX 3090": Gpu((8, 6), 82, 99 * KB, 100 * KB, 1536, 16),
    "RTX 4090": Gpu((8, 9), 128, 99 * KB, 100 * KB, 1536, 24),
    "H200": Gpu((9, 0), 132, 227 * KB, 228 * KB, 2048, 32),
    "B200": Gpu((10, 0), 148, 227 * KB, 228 * KB, 2048, 32),
    "RTX 5090": Gpu((12, 0), 170, 99 * KB, 100 * KB, 1536, 24),
}


@dataclass(frozen=True)
class Launch:
    """The launch of a kernel, by its mangled name. `shared` is the dynamic shared memory of a block in bytes."""

    mangled: str
    blocks: tuple[int, int, int]
    threads: int
    shared: int


@functools.cache
def library() -> ctypes.CDLL:
    """csrc/cuda linked with the replacement runtime. Loading it registers the kernels, so _cuda must not be loaded too.

    Raises RuntimeError if torch is a CUDA build.
    """
    if torch.version.cuda is not None:
        raise RuntimeError("launches can only be examined with a CPU build of torch; this torch has a CUDA runtime")
    objects, _ = machine_code.compile_all()
    path = objects[0].parent / "launches.so"
    cuda = Path(machine_code.setup_py().cuda_home()) / "include"
    include = [f"-I{path}" for path in (*cpp_extension.include_paths(), cuda)]
    flags = ["-std=c++20", "-O1", "-shared", "-fPIC", "-Wall", "-DUSE_CUDA", "-Wl,-Bsymbolic"]
    link = [*(f"-L{path}" for path in cpp_extension.library_paths()), "-ltorch_cpu", "-lc10"]
    source = Path(__file__).with_name("runtime.cpp")
    subprocess.run(["g++", *flags, *include, source, *objects, *link, "-o", path], check=True)
    loaded = ctypes.CDLL(str(path))
    loaded.launches.restype = ctypes.c_char_p
    return loaded


def run(gpu: Gpu, op: str, *arguments) -> tuple[tuple[Tensor, ...], list[Launch]]:
    """Runs an op's host code on CPU tensors as if they were on this GPU. Returns its results and its launches.

    The kernels do not run, so the results are uninitialised. Raises RuntimeError with the reason if this GPU would
    refuse a launch.
    """
    stand_in = library()
    stand_in.become(*gpu.capability, gpu.multiprocessors, gpu.shared_per_block)
    stand_in.launches()
    overload = getattr(torch.ops.stgt_kernels, op).default
    try:
        result = overload.redispatch(torch._C.DispatchKeySet(torch._C.DispatchKey.CUDA), *arguments)
    except RuntimeError as error:
        raise RuntimeError(f"{error}\n{stand_in.launches().decode()}") from error
    text = stand_in.launches().decode()
    if "refused" in text:
        raise RuntimeError(text)
    return result if isinstance(result, tuple) else (result,), [
        _parsed(line) for line in text.splitlines() if line.startswith("launch ")
    ]


def _parsed(line: str) -> Launch:
    _, mangled, x, y, z, threads, shared = line.split()
    return Launch(mangled, (int(x), int(y), int(z)), int(threads), int(shared))


def attention_arguments(
    dtype: torch.dtype,
    B: int = 1,
    H: int = 2,
    T: int = 3,
    P: int = 256,
    D: int = 88,
    W: int = 1,
    dropout_p: float = 0,
    differentiable: bool = False,
) -> tuple:
    """Arguments of graph_attention_fwd. The tensors are never written, so even large ones take no memory."""
    q, k, v = (torch.empty(B, T * P, H, D, dtype=dtype).transpose(1, 2) for _ in range(3))
    tiles, band = -(-P // 64), 2 * W + 1
    weight = torch.empty(B, T, P, band, P, dtype=storage_dtype(dtype, differentiable))
    live = torch.empty(B, T, tiles, band, tiles, dtype=torch.bool)
    seed = torch.tensor([1]) if dropout_p else None
    return q, k, v, weight, live, seed, D**-0.5, dropout_p


def backward_arguments(forward: tuple, need_dweight: bool | None = None) -> tuple:
    """Arguments of graph_attention_bwd. By default they ask for the gradient of the weights if these can have one."""
    need_dweight = forward[3].dtype == torch.float32 if need_dweight is None else need_dweight
    *tensors, scale, dropout_p = forward
    q = tensors[0]
    lse, dlse = (torch.empty(q.shape[:3], dtype=torch.float32) for _ in range(2))
    return torch.empty_like(q), *tensors, torch.empty_like(q), lse, dlse, scale, dropout_p, need_dweight


def edge_arguments(
    dtype: torch.dtype,
    N: int = 1000,
    E: int = 5000,
    H: int = 8,
    D: int = 32,
    types: int = 0,
    dropout_p: float = 0,
) -> tuple:
    """Arguments of edge_attention_fwd, with tables of factors and biases if there are types. No value is read."""
    q, k, v = (torch.empty(N, H, D, dtype=dtype) for _ in range(3))
    table = torch.empty(types, H) if types else None
    edge_type = torch.empty(E, dtype=torch.uint8) if types else None
    rows = torch.empty(N + 1, dtype=torch.int32), *(torch.empty(E, dtype=torch.int32) for _ in range(2))
    seed = torch.tensor([1]) if dropout_p else None
    return q, k, v, table, table, *rows, edge_type, edge_type, seed, float("inf"), D**-0.5, dropout_p


def edge_backward_arguments(forward: tuple) -> tuple:
    """Arguments of edge_attention_bwd. They ask for the gradients of the tables if there are any."""
    *tensors, clamp, scale, dropout_p = forward
    q, table, rows = tensors[0], tensors[3], tensors[5:8]
    (N, H, _), E = q.shape, rows[1].shape[0]
    scores, softmax = torch.empty(E, H), torch.empty(N, H, 2)
    needs = (table is not None,) * 2
    inputs = *tensors[:8], *rows, *tensors[8:]
    return torch.empty_like(q), None, *inputs, scores, softmax, clamp, scale, dropout_p, *needs


DTYPES = (torch.bfloat16, torch.float16, torch.float32)


def problems() -> Iterator[tuple[str, tuple]]:
    """Calls (op, arguments) of all ops. Together they launch every kernel."""
    sizes = itertools.product(DTYPES, (20, 64, 84, 88, 100, 128), (256, 196, 72, 49), (0.0, 0.1))
    for dtype, D, P, dropout_p in sizes:
        for differentiable in (False, True):
            arguments = attention_arguments(dtype, D=D, P=P, dropout_p=dropout_p, differentiable=differentiable)
            yield "graph_attention_fwd", arguments
            yield "graph_attention_bwd", backward_arguments(arguments, differentiable)
    for dtype, C, P in itertools.product(DTYPES, (1408, 88, 13), (256, 196, 49)):
        x = torch.empty(1, 3, P, C, dtype=dtype)
        weight = torch.empty(1, 3, P, 3, P)
        for differentiable in (False, True):
            yield "spatio_temporal_graph_fwd", (x, 0.5, 1, differentiable)
        yield "spatio_temporal_graph_bwd", (weight, x, weight, torch.empty(1, 3, P))
    for dtype, D in itertools.product(DTYPES, (32, 128)):
        arguments = edge_arguments(dtype, D=D, types=12)
        yield "edge_attention_fwd", arguments
        yield "edge_attention_bwd", edge_backward_arguments(arguments)
