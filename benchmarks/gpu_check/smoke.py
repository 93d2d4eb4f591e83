"""Compares every kernel with the definition once, so that the first minute on a GPU gives a verdict for each of them.

Each variant runs in a process of its own with a short time limit, so a kernel that crashes or hangs ends no other. The
results of one variant are compared one after the other: a wrong output is told apart from wrong gradients.
"""

import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.gpu_check.processes import finish, start
from benchmarks.gpu_check.record import RECORDS, Record
from benchmarks.gpu_check.report import Check, log
from stgt_kernels import (
    RaggedGraph,
    SpatioTemporalGraph,
    edge_attention,
    graph_attention,
    spatio_temporal_graph,
    token_similarity,
)
from stgt_kernels.graph import storage_dtype
from stgt_kernels.testing import assert_close, assert_graph_close, video_like_tokens

SECONDS = {"cuda": 40, "triton": 120}
"""The time limit for the process of a variant. It takes about 10 s to import torch, and Triton compiles."""
AT_ONCE = 6
SHAPES = {"four groups": 264, "two groups": 72, "odd rows": 49, "any GPU": 49}
"""The number of patches P with which a Hopper GPU takes these kernels of graph attention"""
SEED = 1234
RIGHT, END = "right", "end"
Call = Callable[[str, torch.dtype], tuple[Tensor, ...]]
"""Runs an op with a backend in a dtype, and returns its output and the leaves of its gradients"""
Results = Iterator[tuple[str, Callable[[], object]]]
"""The name of a result, and a function that fails if it is wrong"""


def variants() -> dict[str, Callable[[], Results]]:
    """All variants by name, which begins with the backend: CUDA's kernels, then Triton's."""
    half, single = torch.bfloat16, torch.float32
    chosen: dict[str, Callable[[], Results]] = {}
    for kernel, P in SHAPES.items():
        less = 4 if kernel == "any GPU" else 0  # Hopper's kernels take heads of a multiple of 8 only
        for D in (64 - less, 88 - less, 128 - less):
            for dropout_p in (0.0, 0.2):
                name = f"cuda attention, {kernel}, bf16 D={D}{' dropout' if dropout_p else ''}"
                chosen[name] = partial(attention, "cuda", half, P, D, dropout_p)
        name = f"cuda attention, {kernel}, bf16 D={88 - less} dropout, float32 weights"
        chosen[name] = partial(attention, "cuda", half, P, 88 - less, 0.2, True)
    chosen["cuda attention fp16 D=88"] = partial(attention, "cuda", torch.float16, 264, 88, 0.0)
    chosen["cuda attention fp32 D=88"] = partial(attention, "cuda", single, 72, 88, 0.2, True)
    for backend in ("cuda", "triton"):
        for dtype in (half, single):
            name = {half: "bf16", single: "fp32"}[dtype]
            if backend == "triton":
                chosen[f"triton attention {name} D=88"] = partial(attention, backend, dtype, 72, 88, 0.2, True)
            chosen[f"{backend} graph {name}"] = partial(construction, backend, dtype, 264, 1408)
            chosen[f"{backend} edges {name}"] = partial(edges, backend, dtype, 32, 0.2)
    return chosen


def run(out: Path, deadline: float) -> tuple[list[Check], dict]:
    record = Record(out / RECORDS, "smoke")
    record.clear()
    names = list(variants())
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(AT_ONCE) as pool:
        logs = Path(folder)
        list(pool.map(lambda i: _one(names[i], logs / str(i), record, deadline), range(len(names))))
        for i, name in enumerate(names):
            log(out, f"smoke: {name}", (logs / str(i)).read_text() if (logs / str(i)).exists() else "")
    return checks(names, record.read()), {}


def checks(names: list[str], found: dict[str, str | None]) -> list[Check]:
    """One line for each variant. found: the verdict of each result, or None if the process ended during it."""
    lines = []
    for name in names:
        verdicts = {piece.removeprefix(f"{name}: "): v for piece, v in found.items() if piece.startswith(f"{name}: ")}
        ended = verdicts.pop(END, None) == RIGHT
        right = ", ".join(result for result, verdict in verdicts.items() if verdict == RIGHT)
        text = [f"{result}: {v or 'its process died or hung'}" for result, v in verdicts.items() if v != RIGHT]
        met = ended and not text
        text += [f"right: {right}"] if right else []
        lines.append(Check(name, "; ".join(text) or "its process died or hung at once", "all right", met))
    return lines


def _one(name: str, path: Path, record: Record, deadline: float) -> None:
    until = min(time.monotonic() + SECONDS[name.split()[0]], deadline)
    if until > time.monotonic():
        finish(start([sys.executable, "-m", "benchmarks.gpu_check.smoke", name, str(record.path)], path), until)
    print(*(f"{check.what}: {check.found}" for check in checks([name], record.read())), flush=True)


def attention(
    backend: str, dtype: torch.dtype, P: int, D: int, dropout_p: float, wide: bool = False, device: str = "cuda"
) -> Results:
    """Graph attention of 3 frames and 2 heads. wide: the weights are float32 and get a gradient."""
    T, H = 3, 2
    tokens = video_like_tokens(1, T, P, 32)
    weight = spatio_temporal_graph(tokens, threshold=0.5, backend="reference").weight
    weight[:, :, :, 0] = 0  # rows without an edge to some frame, and tiles to skip
    weight = weight.to(storage_dtype(dtype, wide))
    q, k, v, dout = (torch.randn(1, T * P, H, D).to(dtype).transpose(1, 2) for _ in range(4))

    def call(backend: str, to: torch.dtype) -> tuple[Tensor, ...]:
        leaves = [t.to(device, to).requires_grad_() for t in (q, k, v)]
        graph = weight.to(device, to if to == torch.float64 else weight.dtype).requires_grad_(wide)
        torch.manual_seed(SEED)  # the device draws the seed of the dropout
        out = graph_attention(*leaves, SpatioTemporalGraph(graph), dropout_p=dropout_p, backend=backend)
        return out, *leaves, *([graph] if wide else [])

    yield from compared(call, backend, dtype, dout, ("out", "dq", "dk", "dv", *(["dW"] if wide else [])))


def construction(backend: str, dtype: torch.dtype, P: int, C: int, device: str = "cuda") -> Results:
    """The graph of tokens, and the gradient of the tokens."""
    tokens = video_like_tokens(1, 3, P, C, dtype=dtype)
    x = tokens.to(device).requires_grad_()
    graph = spatio_temporal_graph(x, threshold=0.5, differentiable=True, backend=backend)
    yield "weight", lambda: assert_graph_close(graph, tokens.to(device), 0.5, 1)
    dout = graph.weight.detach()

    def gradient(to: torch.dtype) -> Tensor:
        leaf = tokens.to(device, to).requires_grad_()
        similarity = token_similarity(leaf, differentiable=True, backend="reference").weight
        return torch.autograd.grad(similarity, leaf, dout.to(similarity.dtype))[0]  # 0 where there is no edge

    yield (
        "dx",
        lambda: assert_close(
            torch.autograd.grad(graph.weight, x, dout)[0], gradient(dtype), gradient(torch.float64), "dx"
        ),
    )


def edges(backend: str, dtype: torch.dtype, D: int, dropout_p: float, device: str = "cuda") -> Results:
    """Attention over edges. One row and one column have so many edges that the CUDA kernels cut them into pieces."""
    N, E, H, types = 30, 700, 3, 4
    edge_index = torch.randint(N, (2, E))
    edge_index[1, :300] = edge_index[0, 300:600] = 5
    graph = RaggedGraph.from_edge_index(edge_index, N, edge_type=torch.randint(types, (E,)), types=types)
    q, k, v, dout = (torch.randn(N, H, D).to(dtype) for _ in range(4))
    table, bias = torch.randn(types, H), torch.randn(E, H)

    def call(backend: str, to: torch.dtype) -> tuple[Tensor, ...]:
        leaves = [t.to(device, to).requires_grad_() for t in (q, k, v)]
        wide = torch.float64 if to == torch.float64 else torch.float32
        scale, more = (t.to(device, wide).requires_grad_() for t in (table, bias))
        torch.manual_seed(SEED)  # the device draws the seed of the dropout
        out = edge_attention(
            *leaves, graph.to(device), edge_scale=scale, edge_bias=more, dropout_p=dropout_p, backend=backend
        )
        return out, *leaves, scale, more

    yield from compared(call, backend, dtype, dout, ("out", "dq", "dk", "dv", "dscale", "dbias"))


def gradients(made: tuple[Tensor, ...], dout: Tensor) -> tuple[Tensor, ...]:
    """The output, and the gradients of all leaves. made: the output and the leaves."""
    out, *leaves = made
    return out.detach(), *torch.autograd.grad(out, leaves, dout.to(out))


def compared(call: Call, backend: str, dtype: torch.dtype, dout: Tensor, names: tuple[str, ...]) -> Results:
    """Compares each result in turn with the definition. The backward pass runs when the first gradient is compared."""
    exact, plain = (gradients(call("reference", to), dout) for to in (torch.float64, dtype))
    made = call(backend, dtype)
    found = [made[0].detach()]

    def check(i: int) -> None:
        if i >= len(found):
            found.extend(gradients(made, dout)[1:])
        assert_close(found[i], plain[i], exact[i], names[i])

    for i, name in enumerate(names):
        yield name, partial(check, i)


def main(name: str, path: str) -> None:
    """Records the verdict of each result of a variant: RIGHT, or what is wrong."""
    torch.manual_seed(0)
    record = Record(Path(path), "smoke")
    try:
        for result, check in variants()[name]():
            record.add(f"{name}: {result}", None)
            record.add(f"{name}: {result}", verdict(check))
    except Exception as error:
        record.add(f"{name}: run", f"{type(error).__name__}: {error}".splitlines()[0])
    record.add(f"{name}: {END}", RIGHT)


def verdict(check: Callable[[], object]) -> str:
    try:
        check()
    except Exception as error:
        return f"{type(error).__name__}: {error}".splitlines()[0]
    return RIGHT


if __name__ == "__main__":
    main(*sys.argv[1:])
