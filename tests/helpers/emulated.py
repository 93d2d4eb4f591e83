"""CUDA kernels as shared libraries for the emulator of tests/cuda/emulator, and their arguments from CPU tensors."""

import ctypes
import functools
import re
import subprocess
import tempfile
from pathlib import Path

import torch
from torch import Tensor

from stgt_kernels import SpatioTemporalGraph
from stgt_kernels.ops.graph_attention import philox

SOURCES = Path(__file__).parents[1] / "cuda"
HEADERS = SOURCES.parents[1] / "csrc" / "cuda"
EMULATOR = SOURCES / "emulator" / "ptx_sm90.h"
FLAGS = ["-std=c++20", "-O1", "-shared", "-fPIC", "-x", "c++", "-include", str(EMULATOR), "-Wall"]


@functools.cache
def library(name: str) -> ctypes.CDLL:
    """Returns tests/cuda/<name>.cpp as a library, which is built once per process."""
    folder = tempfile.TemporaryDirectory(prefix="stgt_emulated_")
    path = Path(folder.name) / f"{name}.so"
    source = SOURCES / f"{name}.cpp"
    subprocess.run(["g++", *FLAGS, "-Wno-unknown-pragmas", "-o", path, source], check=True)
    loaded = ctypes.CDLL(str(path))
    loaded.folder = folder  # the folder is deleted with the library
    return loaded


MARGIN = 40
"""Elements of memory on each side of a guarded tensor"""


def guarded(like: Tensor) -> tuple[Tensor, Tensor]:
    """Returns a tensor of NaN in the same memory order, and the larger memory around it."""
    order = sorted(range(like.ndim), key=like.stride, reverse=True)
    memory = torch.full((like.numel() + 2 * MARGIN,), float("nan"), dtype=like.dtype)
    inner = memory[MARGIN:-MARGIN].view([like.shape[i] for i in order])
    return inner.permute([order.index(i) for i in range(like.ndim)]), memory


TYPES = {"int": ctypes.c_int, "float": ctypes.c_float, "uint32_t": ctypes.c_uint32, "int64_t": ctypes.c_int64}


def struct(header: str, name: str, **structs: type[ctypes.Structure]) -> type[ctypes.Structure]:
    """The struct ``name`` of a header in csrc/cuda, with the members that the header declares before any function.

    structs: the types of members that are structs themselves, by name.
    """
    source = re.sub(r"//.*", "", (HEADERS / header).read_text())
    members = re.search(rf"struct {name} {{(.*?)(?:STGT_DEVICE|}};)", source, re.DOTALL)[1]
    fields = []
    for declaration in members.split(";")[:-1]:
        type_name, star, names = re.fullmatch(r"\s*(?:const )?(\w+)(\*?)\s+(.+)", declaration, re.DOTALL).groups()
        for member in names.split(","):
            pointer = star or member.strip().startswith("*")
            fields.append((member.strip(" *\n"), ctypes.c_void_p if pointer else {**TYPES, **structs}[type_name]))
    return type(name, (ctypes.Structure,), {"_fields_": fields})


Strides = struct("graph_attention/common.cuh", "Strides")
AttentionParams = struct("graph_attention/common.cuh", "AttentionParams", Strides=Strides)


def nan_heads_last(like: Tensor) -> Tensor:
    """A tensor (B, H, N, D) of NaN, in the memory order of (B, N, H, D)."""
    B, H, N, D = like.shape
    return torch.full((B, N, H, D), float("nan"), dtype=like.dtype).transpose(1, 2)


class Attention:
    """The tensors of one call: inputs, outputs of NaN, and the parameters that point at all of them."""

    def __init__(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        graph: SpatioTemporalGraph,
        *,
        scale: float | None = None,
        dropout_p: float = 0.0,
        seed: Tensor | None = None,
    ):
        B, H, N, D = q.shape
        self.q, self.k, self.v, self.graph, self.seed = q, k, v, graph, seed
        self.scale = D**-0.5 if scale is None else scale
        self.out = nan_heads_last(q)
        self.lse = torch.full((B, H, N), float("nan"))
        dropped = philox.drop_threshold(dropout_p)
        self.params = AttentionParams(
            B, H, graph.frames, graph.patches, graph.window, D, self.scale, dropped, 65536 / (65536 - dropped)
        )
        self.point(q=q, k=k, v=v, weight=graph.weight, live=graph.live, out=self.out, lse=self.lse)
        if seed is not None:
            self.point(seed=seed)

    def point(self, **tensors: Tensor) -> None:
        for name, tensor in tensors.items():
            setattr(self.params, name, tensor.data_ptr())
            if name in ("q", "k", "v", "dout"):
                setattr(self.params, f"{name}_at", Strides(*tensor.stride()[:3]))

    @property
    def wide(self) -> bool:
        """Whether the weights are float32. Otherwise they are float16."""
        return self.graph.weight.dtype == torch.float32

    def backward(self, dout: Tensor, dlse: Tensor | None = None) -> None:
        """Adds the tensors of the backward kernels: dout, delta from the forward kernel's out, and outputs.

        The kernels write dweight only if the weights are float32.
        """
        self.dout = dout
        self.delta = (dout.float() * self.out.float()).sum(-1) - (0 if dlse is None else dlse)
        self.dq, self.dk, self.dv = (nan_heads_last(self.q) for _ in range(3))
        self.dweight = torch.full_like(self.graph.weight, float("nan"))
        names = ("dout", "delta", "dq", "dk", "dv", "dweight")
        self.point(**{name: getattr(self, name) for name in names})

    def check_layout(self, lib: ctypes.CDLL) -> None:
        assert lib.params_size() == ctypes.sizeof(AttentionParams)
