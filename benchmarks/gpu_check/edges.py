"""Compares edge_attention with alternatives on graphs of several sizes, with its definition, and with itself."""

import gc
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from benchmarks import ragged
from benchmarks.case import Bench
from benchmarks.gpu_check import timed
from benchmarks.gpu_check.report import Check
from benchmarks.gpu_check.speed import described
from benchmarks.inputs import DTYPES
from benchmarks.memory import peak_memory
from benchmarks.ragged import BATCHES, Batch, Inputs
from benchmarks.rows import Row
from stgt_kernels import dispatch

QUICK = True
QUESTION = "edge attention forward + backward"
LARGE = Batch("2048 clips of 60 to 140 nodes", 2048, 60, 140, 1_200_000)
WIDE = Batch("512 clips of 60 to 140 nodes", 512, 60, 140, 300_000)
HUB = Batch("one node with every edge", 1, 20_000, 20_000, 400_000)
ALLOWED = {"float32": 1e-5, "bfloat16": 2**-7, "float16": 2**-10}
"""The error of a result that is allowed beside that of plain PyTorch, as a share of its norm"""

LARGEST = 0.05
"""A larger error of plain PyTorch allows nothing"""


@dataclass(frozen=True)
class Problem:
    batch: Batch
    dtype: str = "bf16"
    D: int = 32
    H: int = 8

    def __str__(self) -> str:
        return f"{self.batch.name}, {self.dtype}, D={self.D}"

    def inputs(self, device: torch.device) -> Inputs:
        if self.batch == HUB:
            made = ragged.make_hub(HUB.most, HUB.edges, self.H, self.D, device)
        else:
            made = ragged.make(self.batch, self.H, self.D, device)
        return made.in_dtype(DTYPES[self.dtype])


@dataclass(frozen=True)
class Provider:
    name: str
    step: Callable[[Inputs], ragged.Step]
    backend: str | None = None
    """The backend of stgt_kernels, whose results are compared with the definition"""


CONV = Provider("TransformerConv's formula", lambda inputs: ragged.transformer_conv(inputs, inputs.heads.dtype))
SDPA = Provider("padded SDPA, bias for each head", ragged.padded_sdpa)


def ours(backend: str) -> Provider:
    return Provider(f"stgt_kernels {backend}", partial(ragged.ours, backend=backend), backend)


def problems() -> list[Problem]:
    dtypes = [Problem(batch, dtype) for batch in (*BATCHES, LARGE, HUB) for dtype in ("fp32", "bf16")]
    return [*dtypes, Problem(WIDE, D=128)]


def pieces(backends: tuple[str, ...] = ("cuda", "triton")) -> timed.Pieces:
    """Our backends come first, so that a time limit leaves out rivals."""
    rivals = [(problem, CONV) for problem in problems()]
    rivals += [(problem, SDPA) for problem in problems() if problem.batch != HUB]
    chosen = [(problem, ours(backend)) for backend in backends for problem in problems()]
    return {
        f"{problem}: {provider.name}": partial(measured, question=QUESTION, problem=problem, provider=provider)
        for problem, provider in (*chosen, *rivals)
    }


def measured(bench: Bench, question: str, problem: Problem, provider: Provider) -> Row:
    """The row of one provider. Its details hold our errors. The row of a provider that fails says why."""
    gc.collect()
    if bench.device.type == "cuda":
        torch.cuda.empty_cache()
    try:
        row = timed_and_compared(bench, problem, provider)
    except Exception as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        row = Row(provider.name, problem.dtype, {}, missing=reason)
    print(f"{problem}: {provider.name}: {described(row)} {row.details}", flush=True)
    return replace(row, question=question, case=str(problem))


def timed_and_compared(bench: Bench, problem: Problem, provider: Provider) -> Row:
    shape = {**asdict(problem.batch), "H": problem.H, "D": problem.D}
    del shape["name"]
    if provider.backend and (reason := dispatch.why_not(provider.backend, bench.device, DTYPES[problem.dtype])):
        return Row(provider.name, problem.dtype, shape, missing=reason)
    inputs = problem.inputs(bench.device)
    step = provider.step(inputs)
    step()  # the first call compiles
    memory = peak_memory(step, bench.device)
    timing = bench.measure({provider.name: step}, bench.seconds)[provider.name]
    nbytes = moved_bytes(inputs)
    details = compared(inputs, step) if provider.backend else {}
    return Row.timed(
        provider.name,
        problem.dtype,
        shape,
        timing,
        flops=12.0 * inputs.edge_vectors.numel(),
        nbytes=nbytes,
        limit=nbytes / bench.limits.bandwidth,
        peak_memory=memory,
        details=details,
    )


def moved_bytes(inputs: Inputs) -> float:
    """Bytes that the forward and backward passes read and write if no neighbour is in a cache.

    Each edge reads k and v forward, and v, k, q and dout backward. Each node reads q and dout, and writes out, dq, dk
    and dv. For each edge and head, five float32 numbers are written: the score, which is read twice; and dp, the
    gradient of q . k, the probability after dropout and the gradient of the factor, which are read once.
    """
    nodes, edges = inputs.heads[0].numel(), inputs.edge_vectors.numel()
    size, D = inputs.heads.element_size(), inputs.heads.shape[-1]
    return float(6 * edges * size + 44 * edges // D + 6 * nodes * size)


def compared(inputs: Inputs, step: ragged.Step) -> dict[str, float]:
    """How far the result that is off most is off, how far it may be, and whether two calls give the same bits.

    The errors are shares of the results' norms. A result may err twice as much as the definition does in the same
    dtype: the gradients of a node with very many edges are small differences of large numbers. The result that comes
    closest to its bound counts.
    """
    results, again = step(), step()
    same = all(torch.equal(a, b) for a, b in zip(results, again, strict=True))
    del again
    exact = ragged.ours(inputs.in_dtype(torch.float64), "reference")()
    plain = ragged.ours(inputs, "reference")()
    dtype = str(inputs.heads.dtype).removeprefix("torch.")
    plain_errors = [error_of(each, wanted) for each, wanted in zip(plain, exact, strict=True)]
    bounds = [ALLOWED[dtype] + (2 * error if error < LARGEST else 0) for error in plain_errors]
    errors = [error_of(actual, wanted) for actual, wanted in zip(results, exact, strict=True)]
    worst = max(range(len(errors)), key=lambda i: errors[i] / bounds[i])
    return {"off by": errors[worst], "allowed": bounds[worst], "same bits": float(same)}


def error_of(actual: Tensor, exact: Tensor) -> float:
    error = float((actual.double() - exact).norm() / exact.norm())
    return error if error == error else float("inf")


def run(out: Path, deadline: float) -> tuple[list[Check], dict]:
    rows = timed.rows(pieces(), timed.run("edges", out, deadline))
    checks = [Check(name, described(row)) for name, row in rows.items()]
    return [*checks, *targets(rows)], {"rows": [asdict(row) for row in rows.values()]}


def targets(rows: dict[str, Row]) -> list[Check]:
    """Checks of our results, and of how our times compare with those of others."""

    def seconds(problem: Problem, provider: Provider) -> float | None:
        row = rows.get(f"{problem}: {provider.name}")
        return None if row is None else row.median

    def at_least(what: str, mine: float | None, other: float | None, bound: float) -> Check:
        ratio = other / mine if mine and other else None
        text = "not measured" if ratio is None else f"{ratio:.2f}x"
        return Check(what, text, f">= {bound:g}x", None if ratio is None else ratio >= bound)

    checks = []
    for name, row in rows.items():
        if "off by" in row.details:
            off, most = row.details["off by"], row.details["allowed"]
            checks.append(Check(f"{name}: off by", f"{off:.2g}", f"<= {most:.2g}", off <= most))
            same = bool(row.details["same bits"])
            checks.append(Check(f"{name}: same bits", "yes" if same else "no", "yes", same))
    cuda = ours("cuda")
    for problem in problems():
        own = seconds(problem, cuda)
        checks.append(at_least(f"{problem}: {CONV.name} over ours", own, seconds(problem, CONV), 3))
        if problem.batch != HUB:
            checks.append(at_least(f"{problem}: {SDPA.name} over ours", own, seconds(problem, SDPA), 1.5))
    for dtype in ("fp32", "bf16"):
        own, large = seconds(Problem(HUB, dtype), cuda), seconds(Problem(LARGE, dtype), cuda)
        share = large * HUB.edges / LARGE.edges if large else None
        checks.append(at_least(f"hub, {dtype}: rate of edges over that without a hub", own, share, 0.33))
    return checks
