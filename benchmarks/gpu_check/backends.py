"""Compares CUDA with Triton on each op: the table that the backend ``auto`` reads (stgt_kernels/measured.py)."""

import re
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from benchmarks.environment import ROOT
from benchmarks.gpu_check import timed
from benchmarks.gpu_check.report import Check
from benchmarks.gpu_check.speed import BOTH, CONSTRUCTION, PAPER, described, measured, ours
from benchmarks.inputs import DTYPES, Problem
from stgt_kernels.measured import size_class

Measured = dict[tuple[str, str, str], dict[str, float]]  # (capability, dtype, class of sizes): seconds by backend
MEASURED = ROOT / "stgt_kernels" / "measured.py"
QUICK = True


def problems() -> list[tuple[str, str, Problem]]:
    """Lists (op, class of sizes, the problem that represents the class)."""
    sizes = [
        (BOTH, size_class("D", 64), replace(PAPER, D=64)),
        (BOTH, size_class("D", 88), PAPER),
        (CONSTRUCTION, size_class("P", 49), replace(PAPER, P=49)),
        (CONSTRUCTION, size_class("P", 256), PAPER),
    ]
    return [(op, size, replace(problem, dtype=dtype)) for op, size, problem in sizes for dtype in DTYPES]


def pieces() -> timed.Pieces:
    return {
        f"{size} {problem.dtype} {provider.backend}": partial(measured, question=op, problem=problem, provider=provider)
        for op, size, problem in problems()
        for provider in ours(op, ("cuda", "triton"))
    }


def run(out: Path) -> tuple[list[Check], dict]:
    capability = ".".join(map(str, torch.cuda.get_device_capability()))
    rows = timed.rows(pieces(), timed.run("backends", out))
    table: Measured = {}
    for _, size, problem in problems():
        seconds = {backend: rows[f"{size} {problem.dtype} {backend}"].median for backend in ("cuda", "triton")}
        table[capability, str(DTYPES[problem.dtype]), size] = {b: s for b, s in seconds.items() if s is not None}
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
