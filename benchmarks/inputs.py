"""What is timed: problems of a stated size, with the edge density of real video.

Patch tokens of real clips, tiled to size. Gaussian noise would give a graph of self-loops, which flatters sparse code.
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
    """A size of graph and attention; by default one sample of the paper's."""

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
    """"real", or "noise": standard normal numbers"""

    def __str__(self) -> str:
        return f"B={self.B} T={self.T} P={self.P} C={self.C} H={self.H} D={self.D} {self.dtype}"

    @property
    def N(self) -> int:  # noqa: N802
        return self.T * self.P

    @property
    def band(self) -> int:
        """Frames to either side that a token can see."""
        return min(self.window, self.T - 1)

    @property
    def itemsize(self) -> int:
        return DTYPES[self.dtype].itemsize

    @property
    def pairs(self) -> int:
        """Token pairs of a sample within the window and the clip."""
        return sum(self.T - abs(o) for o in range(-self.band, self.band + 1)) * self.P**2

    @property
    def weight_bytes(self) -> int:
        return self.B * self.pairs * self.itemsize

    def attention_flops(self, backward: bool) -> float:
        """Two products over the band's pairs, forward; five more in the backward pass, which recomputes one."""
        return 2.0 * self.B * self.H * self.D * self.pairs * (7 if backward else 2)

    def attention_bytes(self, backward: bool) -> float:
        """Every input read once and every output written once; the backward pass reads q, k, v and weights again."""
        operand = self.B * self.H * self.N * self.D * self.itemsize
        return operand * (4 + 8 if backward else 4) + self.weight_bytes * (2 if backward else 1)

    def graph_flops(self) -> float:
        """One product of each pair of frames: the other half is its mirror image."""
        return 2.0 * self.B * self.C * sum(self.T - o for o in range(self.band + 1)) * self.P**2

    def graph_bytes(self) -> float:
        return self.B * self.N * self.C * self.itemsize + self.weight_bytes


@functools.cache
def clips() -> Tensor:
    """(2, 8, 256, 384) float32: a self-supervised ViT-S/14's patch tokens of two clips, 16 x 16 patches a frame."""
    raw = TOKENS.read_bytes()  # safetensors: length of the header, header, data; read here for want of the package
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
    """(B, T, P, C): the clips played back and forth, their grid resampled to P patches, channels repeated up to C.

    Repeating channels keeps every cosine similarity nearly as it is, hence the density. P other than 256 is a square.
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
    """(B, T, P, C) tokens of the problem's kind."""
    size, dtype = (problem.B, problem.T, problem.P, problem.C), DTYPES[problem.dtype]
    if problem.tokens == "real":
        return real_tokens(*size, dtype=dtype, device=device)
    return torch.randn(size, generator=torch.Generator().manual_seed(0)).to(device=device, dtype=dtype)


def heads(
    B: int, N: int, H: int, D: int, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
) -> list[Tensor]:
    """q, k, v and an output gradient, (B, H, N, D) as a projection leaves them: views of (B, N, H, D)."""
    generator = torch.Generator(device).manual_seed(0)
    shape = (B, N, H, D)
    return [torch.randn(shape, generator=generator, device=device).to(dtype).transpose(1, 2) for _ in range(4)]


@dataclass(frozen=True)
class AttentionInputs:
    """q, k, v, dout (B, H, N, D), the graph, and the problem that they are an instance of."""

    problem: Problem
    graph: SpatioTemporalGraph
    q: Tensor
    k: Tensor
    v: Tensor
    dout: Tensor

    @classmethod
    def make(cls, problem: Problem, device: torch.device | str = "cpu") -> "AttentionInputs":
        p = problem
        # On the CPU, so that what is timed depends on no other kernel of the GPU.
        graph = spatio_temporal_graph(tokens_of(p), threshold=p.threshold, window=p.band).to(device)
        return cls(p, graph, *heads(p.B, p.N, p.H, p.D, DTYPES[p.dtype], device))

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        return self.q, self.k, self.v, self.dout

    @property
    def nbytes(self) -> int:
        return sum(t.nbytes for t in (*self.tensors, self.graph.weight))

    def copy(self) -> "AttentionInputs":
        """The same numbers elsewhere in memory."""
        graph = SpatioTemporalGraph(self.graph.weight.clone(), self.graph.live.clone())
        return AttentionInputs(self.problem, graph, *(t.clone() for t in self.tensors))

    def live_share(self) -> float:
        """Share of the band's 64 x 64 tiles that hold an edge."""
        graph = self.graph
        tiles = sum(rows.stop - rows.start for _, rows in frame_pairs(graph.frames, graph.window))
        return graph.live.sum().item() / (graph.batch * tiles * (-(-graph.patches // TILE)) ** 2)
