"""CUDA against Triton at a training step of each op: the table that ``auto`` reads (stgt_kernels/measured.py)."""

import re
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks import limits
from benchmarks.case import Bench
from benchmarks.environment import ROOT
from benchmarks.gpu_check import speed
from benchmarks.gpu_check.report import Check
from benchmarks.gpu_check.speed import BOTH, CONSTRUCTION, PAPER, described
from benchmarks.gpu_timing import queued_times
from benchmarks.inputs import DTYPES, Problem
from benchmarks.providers import GRAPH, KERNELS
from stgt_kernels.measured import size_class

Measured = dict[tuple[str, str, str], dict[str, float]]  # seconds by backend, by (capability, dtype, class of sizes)
MEASURED = ROOT / "stgt_kernels" / "measured.py"


def problems() -> list[tuple[str, str, Problem]]:
    """Op, class of sizes, and the problem that stands for it."""
    sizes = [
        (BOTH, size_class("D", 64), replace(PAPER, D=64)),
        (BOTH, size_class("D", 88), PAPER),
        (CONSTRUCTION, size_class("P", 49), replace(PAPER, P=49)),
        (CONSTRUCTION, size_class("P", 256), PAPER),
    ]
    return [(op, size, replace(problem, dtype=dtype)) for op, size, problem in sizes for dtype in DTYPES]


def run(out: Path) -> tuple[list[Check], dict]:
    device = torch.device("cuda", torch.cuda.current_device())
    bench = Bench(device, quick=True, measure=queued_times, limits=limits.measure(device))
    capability = ".".join(map(str, torch.cuda.get_device_capability(device)))
    table, checks = {}, []
    for op, size, problem in problems():
        seconds = {}
        for backend in ("cuda", "triton"):
            provider = next(p for p in (GRAPH if op == CONSTRUCTION else KERNELS) if p.backend == backend)
            row = speed.measured(bench, op, problem, provider)
            checks.append(Check(f"{size} {problem.dtype} {backend}", described(row)))
            if row.median is not None:
                seconds[backend] = row.median
        table[capability, str(DTYPES[problem.dtype]), size] = seconds
    out.mkdir(parents=True, exist_ok=True)
    (out / "measured.py").write_text(rewritten(MEASURED.read_text(), table))
    print(f"copy {out / 'measured.py'} over {MEASURED} to have auto choose by it")
    return checks, {"measured": {" ".join(key): seconds for key, seconds in table.items()}}


def rewritten(source: str, measured: Measured) -> str:
    """measured.py, whose table comes last, with these measurements in place of those of the same GPU."""
    head, _, old = source.rpartition("= frozenset(")
    entries = re.findall(r'\("([\d.]+)", ([\w.]+), "(.+)"\)', old)
    capabilities = {capability for capability, _, _ in measured}
    kept = [entry for entry in entries if entry[0] not in capabilities]
    faster = [key for key, s in measured.items() if len(s) == 2 and s["triton"] < s["cuda"]]
    lines = [f'        ("{c}", {dtype}, "{size}"),\n' for c, dtype, size in sorted([*kept, *faster])]
    table = "\n    {\n" + "".join(lines) + "    }\n" if lines else ""
    return f"{head}= frozenset({table})\n"
