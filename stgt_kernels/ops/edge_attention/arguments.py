"""The checks of the arguments of edge_attention. Each error names the argument, what came and what was expected."""

from torch import Tensor

from stgt_kernels import dispatch
from stgt_kernels.ops.tensors import check_dense, check_operands
from stgt_kernels.ragged_graph import RaggedGraph
from stgt_kernels.rounding import accumulator_dtype

OP = "edge_attention"


def check(q: Tensor, k: Tensor, v: Tensor, graph: RaggedGraph) -> None:
    """Raises ValueError unless q, k and v are (N, H, D) of one dtype, on the device of a graph with N nodes."""
    check_dense(OP, "q", q)
    if q.ndim != 3:
        raise ValueError(f"{OP}: q must be (N, H, D), got {tuple(q.shape)}")
    check_operands(OP, q, k, v)
    N, H, D = q.shape
    limit = dispatch.MAX_HEAD_DIM
    if H < 1 or not 1 <= D <= limit:
        raise ValueError(f"{OP}: q (N, H, D) must have H >= 1 and 1 <= D <= {limit}, got {tuple(q.shape)}")
    if graph.nodes != N:
        raise ValueError(f"{OP}: q has N={N} nodes, but the graph has {graph.nodes}")
    if graph.device != q.device:
        raise ValueError(f"{OP}: the graph must be on q's device {q.device}, got {graph.device}")


def check_tensors(q: object, k: object, v: object, graph: object) -> None:
    """Raises ValueError unless q, k and v are tensors and graph is a RaggedGraph."""
    if not all(isinstance(t, Tensor) for t in (q, k, v)) or not isinstance(graph, RaggedGraph):
        got = ", ".join(type(t).__name__ for t in (q, k, v, graph))
        raise ValueError(f"{OP}: q, k, v must be tensors and graph a RaggedGraph, got {got}")


def edge_values(name: str, values: Tensor | None, q: Tensor, graph: RaggedGraph) -> Tensor | None:
    """edge_scale or edge_bias, (E or types, H), in the dtype that scores are computed in.

    name: the name of the argument. Raises ValueError for another shape, dtype or device.
    """
    if values is None:
        return None
    if isinstance(values, Tensor):
        check_dense(OP, name, values)
    if not isinstance(values, Tensor) or values.ndim != 2 or values.shape[1] != q.shape[1]:
        got = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
        raise ValueError(f"{OP}: {name} must be a tensor (E, H) or (types, H) with H={q.shape[1]}, got {got}")
    wide = accumulator_dtype(q.dtype)
    if values.dtype not in (wide, q.dtype):
        names = " or ".join(sorted({str(wide), str(q.dtype)}))
        raise ValueError(f"{OP}: with q in {q.dtype}, {name} must be in {names}, got {values.dtype}")
    if values.device != q.device:
        raise ValueError(f"{OP}: {name} must be on q's device {q.device}, got {values.device}")
    _check_rows(name, values.shape[0], graph)
    return values.to(wide)


def _check_rows(name: str, rows: int, graph: RaggedGraph) -> None:
    # torch.compile does not find a number among the symbols of a tuple, so there is no `in`.
    if rows == graph.edges or (graph.edge_type is not None and rows == graph.types):
        return
    types = f", or for each of its {graph.types} edge types" if graph.edge_type is not None else ", which have no types"
    raise ValueError(f"{OP}: {name} must have a row for each of the graph's {graph.edges} edges{types}, got {rows}")
