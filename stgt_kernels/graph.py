"""The spatio-temporal graph, stored as a band of frame pairs."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

TILE = 64


def storage_dtype(dtype: torch.dtype) -> torch.dtype:
    """Weights lie in [-1, 1], where float16 resolves 8 times finer than bfloat16."""
    return torch.float16 if dtype in (torch.bfloat16, torch.float16) else dtype


def live_tiles(weight: Tensor) -> Tensor:
    """Marks the TILE x TILE tiles of each frame pair that hold an edge.

    weight: (B, T, P, 2w+1, P). Returns bool (B, T, ceil(P/64), 2w+1, ceil(P/64)).
    """
    B, T, P, O, _ = weight.shape
    n = -(-P // TILE)
    edge = torch.nn.functional.pad(weight != 0, (0, n * TILE - P, 0, 0, 0, n * TILE - P))
    return edge.view(B, T, n, TILE, O, n, TILE).any(6).any(3)


def frame_pairs(frames: int, window: int) -> Iterator[tuple[int, slice]]:
    """For each offset o from -window to window: o and the frames t for which t + o lies in the clip."""
    for o in range(-window, window + 1):
        yield o, slice(max(-o, 0), frames - max(o, 0))


@dataclass(frozen=True)
class SpatioTemporalGraph:
    """Edges between tokens of the same or neighbouring frames, in banded storage.

    ``weight[b, t, p, o, q]`` is the weight of the edge from token p of frame t (the row, which attends) to token q of
    frame ``t + o - window`` (the column, which is attended to); 0 means no edge, also beyond the ends of the clip.
    Memory grows linearly with the number of frames.

    weight: (B, T, P, 2*window+1, P), contiguous; float32, float64, or float16 (for bfloat16 and float16 features).
    live:   (B, T, ceil(P/64), 2*window+1, ceil(P/64)) bool, which 64x64 tiles hold an edge; attention skips the others.
            A tile marked False must hold no edge.
    """

    weight: Tensor
    live: Tensor

    @classmethod
    def from_dense(cls, weight: Tensor, frames: int = 1, window: int | None = None) -> "SpatioTemporalGraph":
        """Stores a dense weight matrix; ``frames=1`` keeps any graph whatever, video or not. Differentiable.

        weight: (B, N, N) with N = frames * P, 0 where there is no edge. window: defaults to ``frames - 1``, everything.
        Raises ValueError if N is not a multiple of frames, or if an edge lies outside the window (not under
        torch.compile).
        """
        window = frames - 1 if window is None else window
        if weight.ndim != 3 or weight.shape[1] != weight.shape[2]:
            raise ValueError(f"from_dense: weight must be (B, N, N), got {tuple(weight.shape)}")
        if not weight.is_floating_point():
            raise ValueError(f"from_dense: weight must be a floating-point tensor, got {weight.dtype}")
        B, N, _ = weight.shape
        if frames < 1 or N % frames:
            raise ValueError(f"from_dense: frames must divide the number of tokens N={N}, got frames={frames}")
        if not 0 <= window < frames:
            raise ValueError(f"from_dense: window must satisfy 0 <= window < frames={frames}, got {window}")
        P = N // frames
        dense = weight.to(storage_dtype(weight.dtype)).view(B, frames, P, frames, P)
        banded = dense.new_zeros(B, frames, P, 2 * window + 1, P)
        for o, rows in frame_pairs(frames, window):
            banded[:, rows, :, o + window] = dense.diagonal(o, 1, 3).permute(0, 3, 1, 2)
        if not torch.compiler.is_compiling() and window < frames - 1:
            outside = int(torch.count_nonzero(dense.detach()) - torch.count_nonzero(banded.detach()))
            if outside:
                raise ValueError(f"from_dense: weight has {outside} edges of frames more than window={window} apart")
        return cls(banded, live_tiles(banded.detach()))

    @property
    def batch(self) -> int:
        return self.weight.shape[0]

    @property
    def frames(self) -> int:
        return self.weight.shape[1]

    @property
    def patches(self) -> int:
        return self.weight.shape[2]

    @property
    def window(self) -> int:
        return self.weight.shape[3] // 2

    @property
    def nodes(self) -> int:
        """Number of graph nodes, N = T * P."""
        return self.frames * self.patches

    @property
    def grad(self) -> Tensor | None:
        """Gradient with respect to the weights, in banded storage; None before a backward pass.

        Raises ValueError for a graph that carries no gradients: one built with ``differentiable=False``.
        """
        if not self.weight.requires_grad:
            raise ValueError(
                "graph: gradients were asked of a graph that carries none; build it with differentiable=True from "
                "features that require grad, or with from_dense from weights that do"
            )
        return self.weight.grad

    def to_dense(self) -> Tensor:
        """The dense weights, (B, N, N), 0 where there is no edge. Differentiable; memory grows with the square of N."""
        B, T, P, _, _ = self.weight.shape
        dense = self.weight.new_zeros(B, T, P, T, P)
        for o, rows in frame_pairs(T, self.window):
            dense.diagonal(o, 1, 3).permute(0, 3, 1, 2).copy_(self.weight[:, rows, :, o + self.window])
        return dense.view(B, T * P, T * P)

    def edge_index(self) -> tuple[Tensor, Tensor]:
        """The edges in PyTorch Geometric's convention: ``edge_index`` (2, E) int64 and their weights (E,).

        Messages flow from ``edge_index[0]`` (the attended column) to ``edge_index[1]`` (the attending row); node
        t*P + p of sample b has number b*N + t*P + p.
        """
        b, t, p, o, q = torch.nonzero(self.weight, as_tuple=True)
        row = (b * self.frames + t) * self.patches + p
        column = (b * self.frames + t + o - self.window) * self.patches + q
        return torch.stack([column, row]), self.weight[b, t, p, o, q]

    def degree(self) -> Tensor:
        """Edges per token, (B, N) int64."""
        return torch.count_nonzero(self.weight.detach(), dim=(3, 4)).flatten(1)

    def density(self) -> Tensor:
        """Share of the band's pairs (those within the window and the clip) that are edges; a scalar tensor."""
        pairs = sum(self.frames - abs(o) for o in range(-self.window, self.window + 1)) * self.patches**2
        return torch.count_nonzero(self.weight.detach()) / (self.batch * pairs)

    def to(self, *args, **kwargs) -> "SpatioTemporalGraph":
        """Moves the weights as ``Tensor.to`` does and the tile map along with them."""
        weight = self.weight.to(*args, **kwargs)
        return SpatioTemporalGraph(weight, self.live.to(weight.device))

    def detach(self) -> "SpatioTemporalGraph":
        return SpatioTemporalGraph(self.weight.detach(), self.live)

    def __repr__(self) -> str:
        w = self.weight
        return (
            f"SpatioTemporalGraph(batch={self.batch}, frames={self.frames}, patches={self.patches}, "
            f"window={self.window}, dtype={w.dtype}, device={w.device})"
        )


pytree.register_pytree_node(
    SpatioTemporalGraph,
    lambda graph: ([graph.weight, graph.live], None),
    lambda children, _: SpatioTemporalGraph(*children),
    serialized_type_name="stgt_kernels.SpatioTemporalGraph",
)
