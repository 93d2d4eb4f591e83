"""The checks of the arguments of edge_attention. Each error names the argument, what came and what was expected."""

import torch
from torch import Tensor

from stgt_kernels import dispatch
from stgt_kernels.ragged_graph import RaggedGraph

OP = "edge_attention"
DTYPES = (*dispatch.FLOAT_DTYPES, torch.float64)


def check(q: Tensor, k: Tensor, v: Tensor, graph: RaggedGraph) -> None:
    """Raises ValueError unless q, k and v are (N, H, D) of one dtype, on the device of a graph with N nodes."""
    if q.ndim != 3:
        raise ValueError(f"{OP}: q must be (N, H, D), got {tuple(q.shape)}")
    for name, tensor in (("k", k), ("v", v)):
        if tensor.shape != q.shape:
            raise ValueError(f"{OP}: {name} must have q's shape {tuple(q.shape)}, got {tuple(tensor.shape)}")
        if tensor.dtype != q.dtype:
            raise ValueError(f"{OP}: {name} must have q's dtype {q.dtype}, got {tensor.dtype}")
        if tensor.device != q.device:
            raise ValueError(f"{OP}: {name} must be on q's device {q.device}, got {tensor.device}")
    if q.dtype not in DTYPES:
        raise ValueError(f"{OP}: q must be float32, float64, bfloat16 or float16, got {q.dtype}")
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
    if not isinstance(values, Tensor) or values.ndim != 2 or values.shape[1] != q.shape[1]:
        got = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
        raise ValueError(f"{OP}: {name} must be a tensor (E, H) or (types, H) with H={q.shape[1]}, got {got}")
    wide = torch.float64 if q.dtype == torch.float64 else torch.float32
    if values.dtype not in (wide, q.dtype):
        names = " or ".join(sorted({str(wide), str(q.dtype)}))
        raise ValueError(f"{OP}: with q in {q.dtype}, {name} must be in {names}, got {values.dtype}")
    if values.device != q.device:
        raise ValueError(f"{OP}: {name} must be on q's device {q.device}, got {values.device}")
    _check_rows(name, values.shape[0], graph)
    return values.to(wide)


def _check_rows(name: str, rows: int, graph: RaggedGraph) -> None:
    if rows in (graph.edges, graph.types) and (rows == graph.edges or graph.edge_type is not None):
        return
    types = f", or for each of its {graph.types} edge types" if graph.edge_type is not None else ", which have no types"
    raise ValueError(f"{OP}: {name} must have a row for each of the graph's {graph.edges} edges{types}, got {rows}")
