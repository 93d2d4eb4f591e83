"""Runs compute-sanitizer's four tools in parallel, each on every kernel at small sizes (small.py)."""

import re
import shutil
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.gpu_check.processes import finish, start
from benchmarks.gpu_check.report import Check, log

SECONDS = 480
# A part of the names of our kernels: the namespace of all CUDA kernels, and the end of the names of all Triton kernels.
# Checking all of torch's kernels as well would take long.
OURS = {"cuda": "stgt", "triton": "_kernel"}
# initcheck has to see torch's kernels too; otherwise it would not know which memory they wrote.
TOOLS = {"memcheck": OURS, "racecheck": OURS, "initcheck": {}, "synccheck": OURS}
# Each tensor is a separate allocation, so an access beyond its end is an error.
ENVIRONMENT = {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}


def run(out: Path, deadline: float) -> tuple[list[Check], dict]:
    if shutil.which("compute-sanitizer") is None:
        return [Check("compute-sanitizer", "not installed", "", None)], {}
    until = min(time.monotonic() + SECONDS, deadline)
    checks = []
    with tempfile.TemporaryDirectory() as folder:
        logs = Path(folder)
        runs = {
            (tool, backend): start(command(tool, backend), logs / f"{tool}-{backend}.log", **ENVIRONMENT)
            for backend in ("cuda", "triton")
            for tool in TOOLS
        }
        for (tool, backend), process in runs.items():
            finish(process, until)
            text = (logs / f"{tool}-{backend}.log").read_text(errors="replace")
            log(out, f"{tool} on {backend}", text)
            found, met = verdict(text)
            print(f"{tool} on {backend}: {found}", flush=True)
            checks.append(Check(f"{tool} on {backend}", found, "0 errors", met))
    return checks, {}


def command(tool: str, backend: str) -> list[str]:
    driver = [sys.executable, "-m", "benchmarks.gpu_check.small", backend]
    options = ["--print-limit", "20", "--target-processes", "application-only"]  # leaves out Triton's assembler
    kernels = ["--kernel-name", f"kns={TOOLS[tool][backend]}"] if TOOLS[tool] else []
    return ["compute-sanitizer", "--tool", tool, *options, *kernels, *driver]


def verdict(log: str) -> tuple[str, bool]:
    """Summarises a tool's log. Returns the summary, and whether the driver ran to its end without errors."""
    summary = re.findall(r"(?:ERROR SUMMARY: (\d+) error|RACECHECK SUMMARY: (\d+) hazard)", log)
    ended = re.search(r"^done$", log, re.MULTILINE) is not None
    if not summary:
        last = log.strip().splitlines()
        return f"did not end: {last[-1][:100] if last else 'said nothing'}", False
    errors = sum(int(n) for pair in summary for n in pair if n)
    first = re.search(r"=========\s+((?!COMPUTE|ERROR|RACECHECK|Target|Saved).+)", log)
    if errors:
        return f"{errors} errors, the first: {first[1].strip()[:80] if first else '?'}", False
    return "0 errors" if ended else "0 errors, but the driver failed", ended
