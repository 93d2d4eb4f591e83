"""12. How fast is attention over the edges of scene graphs, forward and backward, on one thread?"""

import importlib.util
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor

from benchmarks import ragged
from benchmarks.agreement import DisagreementError
from benchmarks.case import Bench, Case
from benchmarks.memory import peak_memory
from benchmarks.ragged import BATCHES, QUICK, Batch, Inputs
from benchmarks.rows import Row
from stgt_kernels import dispatch

H, D = 8, 32
CONV, GEOMETRIC = "TransformerConv's formula", "torch_geometric"
SDPA, BANDED = "padded SDPA, bias for each head", "stgt_kernels graph_attention, padded"
BACKENDS = ("cpu", "triton", "cuda")


def cases(device: str, quick: bool) -> list[Case]:
    return [Case(batch.name, partial(compare, batch=batch)) for batch in (QUICK if quick else BATCHES)]


def ours(backend: str) -> str:
    return f"stgt_kernels {backend}"


def compare(bench: Bench, *, batch: Batch) -> list[Row]:
    device = bench.device
    inputs = ragged.make(batch, H, D, device)
    shape = dict(G=batch.graphs, N=inputs.graph.nodes, E=inputs.graph.edges, H=H, D=D)
    steps: dict[str, Callable[[], object]] = {CONV: ragged.transformer_conv(inputs), SDPA: ragged.padded_sdpa(inputs)}
    rows = []
    if importlib.util.find_spec("torch_geometric") is None:
        rows.append(Row(GEOMETRIC, "fp32", shape, missing="torch_geometric is not installed"))
    else:
        steps[GEOMETRIC] = ragged.torch_geometric_conv(inputs)
    for backend in BACKENDS:
        if reason := dispatch.why_not(backend, device):
            rows.append(Row(ours(backend), "fp32", shape, missing=reason))
        else:
            steps[ours(backend)] = ragged.ours(inputs, backend)
    kernel = next((b for b in ("cuda", "triton", "cpu") if dispatch.why_not(b, device) is None), "reference")
    steps[BANDED] = ragged.banded(inputs, kernel)
    with one_thread():
        check(inputs, steps)
        memory = {name: peak_memory(step, device) for name, step in steps.items()}
        times = bench.measure(steps, bench.seconds)
    return rows + [Row.timed(name, "fp32", shape, times[name], peak_memory=memory[name]) for name in steps]


@contextmanager
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def check(inputs: Inputs, steps: dict) -> None:
    """Raises DisagreementError if a provider does not compute what edge_attention's definition gives for its values.

    Each one has terms of its own: a factor for each head, a bias for each head, or one factor for all heads.
    """
    attends = inputs.graph.degree() > 0
    reference = partial(ragged.ours, inputs, "reference")
    all_heads = inputs.table[:, :1].expand(-1, H)
    expected = {ours(b): reference for b in BACKENDS} | {SDPA: partial(reference, edge_bias=inputs.table)}
    for name, step in steps.items():
        if name == BANDED:
            wanted = without_clamp(inputs, all_heads)
        elif name in (CONV, GEOMETRIC):
            wanted = ragged.transformer_conv(inputs, torch.float64)()
        else:
            wanted = expected[name]()()
        for what, actual, exact in zip(("out", "dq", "dk", "dv"), step(), wanted, strict=False):
            # Without edges SDPA's output means nothing; the gradients that come in there are 0 in both.
            rows = attends if name == SDPA else slice(None)
            agree(f"{name}: {what}", actual, exact, rows)


def without_clamp(inputs: Inputs, edge_scale: Tensor) -> tuple[Tensor, ...]:
    def attend(q, k, v):
        return ragged.edge_attention(q, k, v, inputs.graph, edge_scale=edge_scale, backend="reference")

    return ragged.step(attend, list(inputs.heads[:3]), inputs.heads[3])


def agree(name: str, actual: Tensor, exact: Tensor, rows: Tensor | slice) -> None:
    error = (actual.view(exact.shape)[rows].double() - exact[rows].double()).norm() / exact[rows].double().norm()
    if not error <= 1e-5:
        raise DisagreementError(f"{name} is off by {error:.2g} of its norm, allowed 1e-05")
