"""The spatio-temporal graph, stored as a band of frame pairs."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from stgt_kernels.ops.numbers import integer
from stgt_kernels.ops.tensors import check_dense

TILE = 64
WEIGHT_DTYPES = (torch.float16, torch.float32, torch.float64)


def storage_dtype(dtype: torch.dtype, differentiable: bool = False) -> torch.dtype:
    """The dtype of the weights of a graph that is built from features of ``dtype``.

    Similarities lie in [-1, 1], where float16 resolves 8 times finer than bfloat16. Gradients of weights are often
    smaller than float16's smallest number, so weights that require gradients are float32 at least.
    """
    if dtype not in (torch.bfloat16, torch.float16):
        return dtype
    return torch.float32 if differentiable else torch.float16


def live_tiles(weight: Tensor) -> Tensor:
    """Marks the TILE x TILE tiles of each frame pair that hold an edge.

    weight: (B, T, P, 2w+1, P). Returns bool (B, T, ceil(P/64), 2w+1, ceil(P/64)).
    """
    P = weight.shape[2]
    n = -(-P // TILE)
    edge = weight != 0
    if n == 1:  # padding would take up to TILE * TILE times as much memory as the map of edges
        return edge.any(4, keepdim=True).any(2, keepdim=True)
    missing = n * TILE - P
    columns = torch.nn.functional.pad(edge, (0, missing)).unflatten(4, (n, TILE)).any(5)
    return torch.nn.functional.pad(columns, (0, 0, 0, 0, 0, missing)).unflatten(2, (n, TILE)).any(3)


def frame_pairs(frames: int, window: int) -> Iterator[tuple[int, slice]]:
    """Yields each offset o from -window to window, with the frames t for which t + o lies in the clip."""
    for o in range(-window, window + 1):
        yield o, slice(min(max(-o, 0), frames), max(frames - max(o, 0), 0))


def band_of(dense: Tensor, window: int) -> Tensor:
    """The blocks (B, T, P, 2*window+1, P) of a matrix (B, T, P, T, P) near its diagonal. Others are not looked at."""
    banded = dense.new_zeros(*dense.shape[:3], 2 * window + 1, dense.shape[4])
    for o, rows in frame_pairs(dense.shape[1], window):
        banded[:, rows, :, o + window] = dense.diagonal(o, 1, 3).permute(0, 3, 1, 2)
    return banded


def clamped_window(op: str, window: int, frames: int) -> int:
    """The part of a window, in frames, that a clip of this length can use. Raises ValueError for a window below 0."""
    whole = integer(window)
    if whole is None or whole < 0:
        raise ValueError(f"{op}: window must be an integer of at least 0, got {window!r}")
    return min(whole, frames - 1)


def version_of(x: Tensor) -> int | None:
    """How often x was changed in place. None for a tensor made in inference mode, where PyTorch does not count."""
    return None if x.is_inference() else x._version


def _is_parameter(x: Tensor) -> bool:
    """Whether x may be changed by an optimizer. Fused ones do so without PyTorch's count of changes."""
    return x.requires_grad and x.is_leaf


class SpatioTemporalGraph:
    """Edges between tokens of the same or neighbouring frames, in banded storage.

    ``weight[b, t, p, o, q]`` is the weight of the edge from token p of frame t (the row, which attends) to token q of
    frame ``t + o - window`` (the column, which is attended to). A weight of 0 means that there is no edge, and weights
    beyond the ends of the clip are 0. Memory grows linearly with the number of frames.

    weight: (B, T, P, 2*window+1, P), contiguous; float32, float64, or float16 (for bfloat16 and float16 features).
            Weights that require gradients are float32 or float64; ``torch.autograd.grad(loss, graph.weight)`` gives
            those gradients, and so does ``graph.weight.grad`` after ``graph.weight.retain_grad()``.
    live:   (B, T, ceil(P/64), 2*window+1, ceil(P/64)) bool, True for the 64x64 tiles that hold an edge; attention skips
            the others. It is derived from ``weight`` when it is first read, and anew after ``weight`` was changed in
            place. Of a parameter, which an optimizer changes, it is derived at each call. PyTorch does not report
            changes inside ``torch.inference_mode`` or through ``weight.data`` or a NumPy array, and code that
            ``torch.compile`` has compiled sees none. In these cases, make a new graph instead of changing one.
    """

    def __init__(self, weight: Tensor):
        """Raises ValueError unless weight is a tensor. Attention checks its shape and dtype."""
        if not isinstance(weight, Tensor):
            raise ValueError(
                "SpatioTemporalGraph: weight must be a tensor (B, T, P, 2*window+1, P), "
                f"got {type(weight).__name__}; from_dense takes a matrix"
            )
        self._weight = weight
        self._live: Tensor | None = None
        self._live_version: int | None = None

    @classmethod
    def _with_live(cls, weight: Tensor, live: Tensor) -> "SpatioTemporalGraph":
        """A graph whose tile map is known: a kernel wrote it, or the edges are those of another graph."""
        graph = cls(weight)
        graph._live = live
        # A tensor that compiled code returns is new: it has not been changed in place.
        graph._live_version = 0 if torch.compiler.is_compiling() else version_of(weight)
        return graph

    @property
    def weight(self) -> Tensor:
        """The weights of the edges, (B, T, P, 2*window+1, P)."""
        return self._weight

    @property
    def live(self) -> Tensor:
        """The tiles that hold an edge, bool (B, T, ceil(P/64), 2*window+1, ceil(P/64))."""
        if torch.compiler.is_compiling():
            if self._live is None or _is_parameter(self._weight):
                return live_tiles(self._weight.detach())
            return self._live
        weight, version = self._weight, version_of(self._weight)
        if self._live is not None and self._live_version == version and not _is_parameter(weight):
            return self._live
        with torch.inference_mode(False):  # a later call may need the tiles for its backward pass
            live = live_tiles(weight.detach())
        # A tensor of torch.func or of fake tensors is of no use to calls outside.
        if type(live) is type(weight) and not torch._C._are_functorch_transforms_active():
            self._live, self._live_version = live, version
        return live

    def __reduce__(self):
        return SpatioTemporalGraph, (self._weight,)

    @classmethod
    def from_dense(cls, weight: Tensor, frames: int = 1, window: int | None = None) -> "SpatioTemporalGraph":
        """Stores a dense weight matrix. ``frames=1`` stores any graph, of video or not. Differentiable.

        weight: (B, N, N) with N = frames * P, 0 where there is no edge. float32 and float64 weights keep their dtype,
        as do float16 weights that do not require gradients. Weights of any other dtype become float32, which holds all
        their values; ``graph.to(torch.float16)`` halves the memory if the values allow it. window: at least 0; the
        default is ``frames - 1``, which joins all frames, and a larger one is taken as that. Raises ValueError if N is
        not a multiple of frames, or if an edge lies outside the window (not under torch.compile).
        """
        if isinstance(weight, Tensor):
            check_dense("from_dense", "weight", weight)
        if not isinstance(weight, Tensor) or weight.ndim != 3 or weight.shape[1] != weight.shape[2]:
            got = tuple(weight.shape) if isinstance(weight, Tensor) else type(weight).__name__
            raise ValueError(f"from_dense: weight must be a tensor (B, N, N), got {got}")
        if not weight.is_floating_point():
            raise ValueError(f"from_dense: weight must be a floating-point tensor, got {weight.dtype}")
        B, N, _ = weight.shape
        whole = integer(frames)
        if whole is None or whole < 1 or N % whole:
            raise ValueError(
                f"from_dense: frames must be an integer that divides the number of tokens N={N}, got {frames!r}"
            )
        frames = whole
        window = frames - 1 if window is None else clamped_window("from_dense", window, frames)
        P = N // frames
        keeps = weight.dtype in WEIGHT_DTYPES and not (weight.dtype == torch.float16 and weight.requires_grad)
        dense = (weight if keeps else weight.float()).reshape(B, frames, P, frames, P)
        banded = band_of(dense, window)
        if not torch.compiler.is_compiling() and not weight.is_meta and window < frames - 1:
            outside = int(torch.count_nonzero(dense.detach()) - torch.count_nonzero(banded.detach()))
            if outside:
                raise ValueError(f"from_dense: weight has {outside} edges of frames more than window={window} apart")
        return cls(banded)

    @property
    def dtype(self) -> torch.dtype:
        """The weights' dtype."""
        return self.weight.dtype

    @property
    def device(self) -> torch.device:
        """The weights' device."""
        return self.weight.device

    @property
    def batch_size(self) -> int:
        """Number of samples, B."""
        return self.weight.shape[0]

    @property
    def frames(self) -> int:
        """Number of frames of a sample, T."""
        return self.weight.shape[1]

    @property
    def patches(self) -> int:
        """Number of tokens of a frame, P."""
        return self.weight.shape[2]

    @property
    def window(self) -> int:
        """The most frames that the two ends of an edge may be apart."""
        return self.weight.shape[3] // 2

    @property
    def nodes(self) -> int:
        """Number of graph nodes, N = T * P."""
        return self.frames * self.patches

    def __len__(self) -> int:
        return self.batch_size

    def __getitem__(self, index: int | slice | Tensor) -> "SpatioTemporalGraph":
        """The graph of some of the samples, in the order of the index. Differentiable.

        index: an integer, which gives a batch of one; a slice; or a tensor (n,) of integers, or (B,) of bool. The graph
        that an integer or a slice gives shares this one's memory. Raises ValueError for any other index, and IndexError
        for a sample that is not there.
        """
        if (number := integer(index)) is not None:
            if not -self.batch_size <= number < self.batch_size:
                raise IndexError(f"graph: index {number} is out of range for a batch of {self.batch_size}")
            index = slice(number, number + 1 or None)
        if isinstance(index, slice):
            return self._selected(lambda x: x[index])
        if not isinstance(index, Tensor) or index.ndim != 1 or index.is_floating_point() or index.is_complex():
            got = f"{tuple(index.shape)} {index.dtype}" if isinstance(index, Tensor) else repr(index)
            raise ValueError(f"graph: an index must be an integer, a slice or a tensor (n,) of integers, got {got}")
        if index.dtype != torch.bool:
            index = index.long()  # PyTorch takes uint8 for bool
        if self.device.type == "cpu" and index.dtype != torch.bool:
            # The threads of a CPU add the gradients of weight[index] in no fixed order.
            place = index.where(index >= 0, index + self.batch_size)
            return self._selected(lambda x: x.index_select(0, place))
        return self._selected(lambda x: x[index])

    def _selected(self, select: Callable[[Tensor], Tensor]) -> "SpatioTemporalGraph":
        """select: takes samples from the weights, and from the map of tiles if it is known."""
        weight = select(self.weight)
        return SpatioTemporalGraph(weight) if self._live is None else self._with_live(weight, select(self.live))

    def to_dense(self) -> Tensor:
        """The dense weights, (B, N, N), 0 where there is no edge. Differentiable. Memory grows with N²."""
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
        """The number of edges of each token, (B, N) int64."""
        return torch.count_nonzero(self.weight.detach(), dim=(3, 4)).flatten(1)

    def mean_degree(self) -> Tensor:
        """The mean number of edges of a token, a float32 scalar tensor. It is faster than the mean of ``degree()``."""
        return self._edges().float() / (self.batch_size * self.nodes)

    def density(self) -> Tensor:
        """The share of the pairs within the window and the clip that are edges, a float32 scalar tensor."""
        pairs = sum(max(self.frames - abs(o), 0) for o in range(-self.window, self.window + 1)) * self.patches**2
        return self._edges().float() / (self.batch_size * pairs)

    def _edges(self) -> Tensor:
        """The number of edges, an int64 scalar tensor. On a CPU, PyTorch counts booleans five times as fast."""
        return torch.count_nonzero(self.weight.detach() != 0)

    def to(self, *args, **kwargs) -> "SpatioTemporalGraph":
        """Moves or converts the weights as ``Tensor.to`` does.

        Raises ValueError for another dtype than float16, float32 and float64, for float16 weights that would require
        gradients, and if a finite weight would become infinite or an edge's weight 0 in the new dtype. Code that
        torch.compile compiles cannot look at values, so it must not convert weights to a narrower dtype.
        """
        weight = self.weight.to(*args, **kwargs)
        if weight.dtype not in WEIGHT_DTYPES:
            raise ValueError(f"graph.to: weights are kept in float16, float32 or float64, got {weight.dtype}")
        if weight.dtype == torch.float16 and weight.requires_grad:
            raise ValueError(
                "graph.to: weights that require gradients must stay in float32, because most of their gradients would "
                "become 0 in float16; half-precision q, k and v take a float32 graph, or detach() the graph first"
            )
        if torch.finfo(weight.dtype).bits < torch.finfo(self.weight.dtype).bits:
            _check_narrowed(self.weight.detach(), weight.detach())
        return self._same_edges(weight)

    def detach(self) -> "SpatioTemporalGraph":
        """The same graph without gradients; it shares this one's memory."""
        return self._same_edges(self.weight.detach())

    def unweighted(self) -> "SpatioTemporalGraph":
        """The same edges, each with weight 1. The new graph has no gradients."""
        return self._same_edges((self.weight != 0).to(self.weight.dtype))

    def _same_edges(self, weight: Tensor) -> "SpatioTemporalGraph":
        if self._live is None:
            return SpatioTemporalGraph(weight)
        return self._with_live(weight, self.live.to(weight.device))

    def __repr__(self) -> str:
        return (
            f"SpatioTemporalGraph(batch_size={self.batch_size}, frames={self.frames}, patches={self.patches}, "
            f"window={self.window}, dtype={self.dtype}, device={self.device})"
        )


def _check_narrowed(wide: Tensor, narrow: Tensor) -> None:
    """Raises ValueError if a conversion made a finite weight infinite or an edge's weight 0."""
    name = str(narrow.dtype).removeprefix("torch.")
    if torch.compiler.is_compiling():
        raise ValueError(f"graph.to: code that torch.compile compiles cannot convert weights to {name}; do it outside")
    if narrow.is_meta:
        return
    overflows = int((narrow.isinf() & wide.isfinite()).sum())
    vanishes = int(((narrow == 0) & (wide != 0)).sum())
    if overflows or vanishes:
        size = wide[wide.isfinite() & (wide != 0)].abs()
        info = torch.finfo(narrow.dtype)
        raise ValueError(
            f"graph.to: {overflows} weights would become infinite and {vanishes} edges would vanish in {name}, which "
            f"holds sizes from {info.smallest_normal * info.eps:.3g} to {info.max:.3g}; these weights' sizes are from "
            f"{size.min().item():.3g} to {size.max().item():.3g}. Keep the graph as it is, or scale its weights"
        )


def _flatten_with_keys(graph: SpatioTemporalGraph) -> tuple[list[tuple[Any, Tensor]], None]:
    return [(pytree.GetAttrKey("weight"), graph.weight)], None


def _unflatten(children, _) -> SpatioTemporalGraph:
    """A graph of whatever stands for its weights, such as their place among the inputs of a program."""
    graph = SpatioTemporalGraph.__new__(SpatioTemporalGraph)
    graph._weight, graph._live, graph._live_version = *children, None, None
    return graph


pytree.register_pytree_node(
    SpatioTemporalGraph,
    lambda graph: ([graph.weight], None),
    _unflatten,
    serialized_type_name="stgt_kernels.SpatioTemporalGraph",
    flatten_with_keys_fn=_flatten_with_keys,
)
