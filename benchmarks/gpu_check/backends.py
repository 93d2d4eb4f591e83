"""Compares CUDA with Triton on each op, and writes the table of stgt_kernels/measured.py, which ``auto`` reads."""

import re
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from benchmarks.environment import ROOT
from benchmarks.gpu_check import edges, timed
from benchmarks.gpu_check.report import Check
from benchmarks.gpu_check.speed import BOTH, CONSTRUCTION, PAPER, described, measured, ours
from benchmarks.inputs import DTYPES, Problem
from stgt_kernels.measured import size_class

Measured = dict[tuple[str, str, str], dict[str, float]]  # (capability, dtype, class of sizes): seconds by backend
MEASURED = ROOT / "stgt_kernels" / "measured.py"
QUICK = True


def problems() -> list[tuple[str, str, Problem | edges.Problem]]:
    """Lists (question, class of sizes, the problem that represents the class)."""
    sizes = [
        (BOTH, size_class("D", 64), replace(PAPER, D=64)),
        (BOTH, size_class("D", 88), PAPER),
        (CONSTRUCTION, size_class("P", 49), replace(PAPER, P=49)),
        (CONSTRUCTION, size_class("P", 256), PAPER),
        (edges.QUESTION, size_class("edge D", 32), edges.Problem(edges.LARGE)),
        (edges.QUESTION, size_class("edge D", 128), edges.Problem(edges.WIDE, D=128)),
    ]
    return [(op, size, replace(problem, dtype=dtype)) for op, size, problem in sizes for dtype in DTYPES]


def pieces() -> timed.Pieces:
    found: timed.Pieces = {}
    for question, size, problem in problems():
        of_edges = question == edges.QUESTION
        measure = edges.measured if of_edges else measured
        backends = ("cuda", "triton")
        for provider in [edges.ours(b) for b in backends] if of_edges else ours(question, backends):
            name = f"{size} {problem.dtype} {provider.backend}"
            found[name] = partial(measure, question=question, problem=problem, provider=provider)
    return found


def run(out: Path, deadline: float) -> tuple[list[Check], dict]:
    capability = ".".join(map(str, torch.cuda.get_device_capability()))
    rows = timed.rows(pieces(), timed.run("backends", out, deadline))
    table: Measured = {}
    for _, size, problem in problems():
        found = {backend: rows[f"{size} {problem.dtype} {backend}"] for backend in ("cuda", "triton")}
        seconds = {backend: row.median for backend, row in found.items() if row.median and not row.missing}
        table[capability, str(DTYPES[problem.dtype]), size] = seconds
    (out / "measured.py").write_text(rewritten(MEASURED.read_text(), table))
    print(f"copy {out / 'measured.py'} over {MEASURED} so that the backend auto chooses by these measurements")
    checks = [Check(name, described(row)) for name, row in rows.items()]
    return checks, {"measured": {" ".join(key): seconds for key, seconds in table.items()}}


def rewritten(source: str, measured: Measured) -> str:
    """The source of measured.py with these measurements in its table, which is the last statement of the file.

    They replace the entries of the same compute capability.
    """
    head, _, old = source.rpartition("= frozenset(")
    entries = re.findall(r'\("([\d.]+)", ([\w.]+), "(.+)"\)', old)
    capabilities = {capability for capability, _, _ in measured}
    kept = [entry for entry in entries if entry[0] not in capabilities]
    faster = [key for key, s in measured.items() if len(s) == 2 and s["triton"] < s["cuda"]]
    lines = [f'        ("{c}", {dtype}, "{size}"),\n' for c, dtype, size in sorted([*kept, *faster])]
    table = "\n    {\n" + "".join(lines) + "    }\n" if lines else ""
    return f"{head}= frozenset({table})\n"
