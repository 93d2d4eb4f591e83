"""The inputs of the benchmarks: problems of a given size, with the edge density of real video.

The tokens are patch tokens of real clips, repeated to the problem's size. Gaussian noise would give a graph of
self-loops only, on which sparse code looks faster than it is on video.
"""

import functools
import json
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from stgt_kernels import SpatioTemporalGraph, spatio_temporal_graph
from stgt_kernels.graph import TILE, frame_pairs

TOKENS = Path(__file__).parent.parent / "tests" / "assets" / "real_tokens.safetensors"
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Problem:
    """The size of a graph and its attention. The default is one sample of the paper's size."""

    B: int = 1
    T: int = 8
    P: int = 256
    C: int = 1408
    H: int = 16
    D: int = 88
    window: int = 1
    threshold: float = 0.5
    dtype: str = "fp32"
    tokens: str = "real"
    """"real" for tokens of real clips, or "noise" for standard normal numbers"""

    def __str__(self) -> str:
        return f"B={self.B} T={self.T} P={self.P} C={self.C} H={self.H} D={self.D} {self.dtype}"

    @property
    def N(self) -> int:  # noqa: N802
        return self.T * self.P

    @property
    def band(self) -> int:
        """The number of frames to either side that a token can see."""
        return min(self.window, self.T - 1)

    @property
    def itemsize(self) -> int:
        return DTYPES[self.dtype].itemsize

    @property
    def pairs(self) -> int:
        """The number of token pairs of a sample that lie within the window."""
        return sum(self.T - abs(o) for o in range(-self.band, self.band + 1)) * self.P**2

    @property
    def weight_bytes(self) -> int:
        return self.B * self.pairs * self.itemsize

    def attention_flops(self, backward: bool) -> float:
        """FLOPs of two products over the band's pairs. The backward pass adds five: one recomputes the scores."""
        return 2.0 * self.B * self.H * self.D * self.pairs * (7 if backward else 2)

    def attention_bytes(self, backward: bool) -> float:
        """Bytes to read each input and write each output once. The backward pass reads q, k, v and weights again."""
        operand = self.B * self.H * self.N * self.D * self.itemsize
        return operand * (4 + 8 if backward else 4) + self.weight_bytes * (2 if backward else 1)

    def graph_flops(self) -> float:
        """FLOPs of one product per unordered pair of frames. The graph is symmetric, so the other half is a copy."""
        return 2.0 * self.B * self.C * sum(self.T - o for o in range(self.band + 1)) * self.P**2

    def graph_bytes(self) -> float:
        """Bytes to read the tokens and write the weights once."""
        return self.B * self.N * self.C * self.itemsize + self.weight_bytes


@functools.cache
def clips() -> Tensor:
    """(2, 8, 256, 384) float32: patch tokens of two clips by a self-supervised ViT-S/14, with 16 x 16 patches a frame.

    The GPU check does not require the safetensors package, so this parses the file: header length, header and data.
    """
    raw = TOKENS.read_bytes()
    begin = 8 + int.from_bytes(raw[:8], "little")
    entries = {name: entry for name, entry in json.loads(raw[8:begin]).items() if name != "__metadata__"}
    types = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
    tensors = []
    for entry in entries.values():
        start, end = entry["data_offsets"]
        data = torch.frombuffer(bytearray(raw[begin + start : begin + end]), dtype=types[entry["dtype"]])
        tensors.append(data.view(entry["shape"]).float())
    return torch.stack(tensors)


def real_tokens(
    B: int, T: int, P: int, C: int, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
) -> Tensor:
    """(B, T, P, C) tokens of the clips, played back and forth, resampled to P patches, with channels repeated up to C.

    Repeating channels hardly changes the cosine similarities, and so keeps the density. Raises ValueError if P is not a
    square.
    """
    sample = clips()[torch.arange(B) % len(clips())]
    there_and_back = torch.cat([sample, sample.flip(1)], 1)
    frames = there_and_back[:, torch.arange(T) % there_and_back.shape[1]]
    side = round(P**0.5)
    if side != 16:
        if side**2 != P:
            raise ValueError(f"P must be a square, got {P}")
        grid = frames.flatten(0, 1).transpose(1, 2).unflatten(2, (16, 16))
        grid = F.interpolate(grid, size=(side, side), mode="bilinear", align_corners=False)
        frames = grid.flatten(2).transpose(1, 2).unflatten(0, (B, T))
    frames = frames.to(device=device, dtype=dtype)
    return frames.repeat(1, 1, 1, -(-C // frames.shape[-1]))[..., :C].contiguous()


def tokens_of(problem: Problem, device: torch.device | str = "cpu") -> Tensor:
    """(B, T, P, C) tokens for the problem, from real clips or from noise."""
    size, dtype = (problem.B, problem.T, problem.P, problem.C), DTYPES[problem.dtype]
    if problem.tokens == "real":
        return real_tokens(*size, dtype=dtype, device=device)
    return torch.randn(size, generator=torch.Generator().manual_seed(0)).to(device=device, dtype=dtype)


def heads(
    B: int, N: int, H: int, D: int, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
) -> list[Tensor]:
    """Random q, k, v and output gradient, each (B, H, N, D). They are views of (B, N, H, D), as after a projection."""
    generator = torch.Generator(device).manual_seed(0)
    shape = (B, N, H, D)
    return [torch.randn(shape, generator=generator, device=device).to(dtype).transpose(1, 2) for _ in range(4)]


@functools.lru_cache(maxsize=1)
def graph_of(problem: Problem) -> SpatioTemporalGraph:
    """The graph of the problem's tokens, built on the CPU, so that timed inputs depend on no other kernel of a GPU."""
    return spatio_temporal_graph(tokens_of(problem), threshold=problem.threshold, window=problem.window)


@dataclass(frozen=True)
class AttentionInputs:
    """An instance of a problem: q, k, v and dout (B, H, N, D), and the graph."""

    problem: Problem
    graph: SpatioTemporalGraph
    q: Tensor
    k: Tensor
    v: Tensor
    dout: Tensor

    @classmethod
    def make(cls, problem: Problem, device: torch.device | str = "cpu") -> "AttentionInputs":
        p = problem
        return cls(p, graph_of(p).to(device), *heads(p.B, p.N, p.H, p.D, DTYPES[p.dtype], device))

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        return self.q, self.k, self.v, self.dout

    @property
    def nbytes(self) -> int:
        return sum(t.nbytes for t in (*self.tensors, self.graph.weight))

    def copy(self) -> "AttentionInputs":
        """A copy with the same values elsewhere in memory."""
        graph = self.graph.to(self.graph.weight.device, copy=True)
        return AttentionInputs(self.problem, graph, *(t.clone() for t in self.tensors))

    def live_share(self) -> float:
        """The share of the band's 64 x 64 tiles that hold an edge."""
        graph = self.graph
        tiles = sum(rows.stop - rows.start for _, rows in frame_pairs(graph.frames, graph.window))
        return graph.live.sum().item() / (graph.batch_size * tiles * (-(-graph.patches // TILE)) ** 2)
