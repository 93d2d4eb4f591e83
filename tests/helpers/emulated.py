"""CUDA kernels as shared libraries for the emulator (emulator.h), and their arguments from torch's CPU tensors."""

import ctypes
import functools
import subprocess
import tempfile
from pathlib import Path

import torch
from torch import Tensor

from stgt_kernels import SpatioTemporalGraph
from stgt_kernels.ops.graph_attention import philox

SOURCES = Path(__file__).parents[1] / "cuda"
FLAGS = ["-std=c++20", "-O1", "-shared", "-fPIC", "-x", "c++", "-include", str(SOURCES / "emulator.h"), "-Wall"]


@functools.cache
def library(name: str) -> ctypes.CDLL:
    """tests/cuda/<name>.cpp, built once per process."""
    folder = tempfile.TemporaryDirectory(prefix="stgt_emulated_")
    path = Path(folder.name) / f"{name}.so"
    source = SOURCES / f"{name}.cpp"
    subprocess.run(["g++", *FLAGS, "-Wno-unknown-pragmas", "-o", path, source], check=True)
    loaded = ctypes.CDLL(str(path))
    loaded.folder = folder  # goes when the library does
    return loaded


class Strides(ctypes.Structure):
    _fields_ = [(name, ctypes.c_int64) for name in ("b", "h", "n")]

    @classmethod
    def of(cls, x: Tensor) -> "Strides":
        return cls(*x.stride()[:3])


class AttentionParams(ctypes.Structure):
    """csrc/cuda/graph_attention/common.cuh's struct, member by member."""

    _fields_ = [
        *((name, ctypes.c_int) for name in ("B", "H", "T", "P", "W", "D")),
        ("scale", ctypes.c_float),
        ("drop_threshold", ctypes.c_uint32),
        ("inverse_keep", ctypes.c_float),
        *((name, ctypes.c_void_p) for name in ("seed", "q", "k", "v")),
        *((name, Strides) for name in ("q_at", "k_at", "v_at")),
        *((name, ctypes.c_void_p) for name in ("weight", "live", "out", "lse", "dout")),
        ("dout_at", Strides),
        *((name, ctypes.c_void_p) for name in ("delta", "dq", "dk", "dv", "dweight")),
    ]


def nan_heads_last(like: Tensor) -> Tensor:
    """(B, H, N, D) in memory (B, N, H, D), full of NaN."""
    B, H, N, D = like.shape
    return torch.full((B, N, H, D), float("nan"), dtype=like.dtype).transpose(1, 2)


class Attention:
    """One call's tensors: inputs, outputs full of NaN, and the parameters that point at them all."""

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
                setattr(self.params, f"{name}_at", Strides.of(tensor))

    @property
    def wide(self) -> bool:
        """Whether the weights are float32, and not of the half precision of float16."""
        return self.graph.weight.dtype == torch.float32

    def backward(self, dout: Tensor, dlse: Tensor | None = None) -> None:
        """Adds what the backward kernels take: dout, delta from the forward kernel's out, and their outputs.

        dweight is written only if the weights are float32.
        """
        self.dout = dout
        self.delta = (dout.float() * self.out.float()).sum(-1) - (0 if dlse is None else dlse)
        self.dq, self.dk, self.dv = (nan_heads_last(self.q) for _ in range(3))
        self.dweight = torch.full_like(self.graph.weight, float("nan"))
        names = ("dout", "delta", "dq", "dk", "dv", "dweight")
        self.point(**{name: getattr(self, name) for name in names})

    def check_layout(self, lib: ctypes.CDLL) -> None:
        size = ctypes.c_int64()
        lib.params_size(ctypes.byref(size))
        assert size.value == ctypes.sizeof(AttentionParams)
