"""Runs Nsight Compute on every kernel at the paper's shape. It does not change the GPU's clocks."""

import csv
import shutil
import sys
import time
from pathlib import Path

from benchmarks.gpu_check.processes import finish, start
from benchmarks.gpu_check.report import Check
from tools.compiled.machine_code import short

SECONDS = 240
"""The time limit for each backend"""

SECTIONS = (
    "SpeedOfLight",
    "ComputeWorkloadAnalysis",
    "MemoryWorkloadAnalysis",
    "LaunchStats",
    "Occupancy",
    "SchedulerStats",
    "WarpStateStats",
)
SHOWN = {  # metric: its label in the table
    "Duration": "",
    "Compute (SM) Throughput": "SM",
    "DRAM Throughput": "DRAM",
    "L2 Cache Throughput": "L2",
    "Achieved Occupancy": "occupancy",
    "Registers Per Thread": "registers",
}


def run(out: Path, deadline: float) -> tuple[list[Check], dict]:
    if shutil.which("ncu") is None:
        return [Check("ncu", "not installed", "", None)], {}
    checks = []
    for backend in ("cuda", "triton"):
        log = out / f"ncu-{backend}.csv"
        log.unlink(missing_ok=True)
        finish(start(command(backend), log), min(time.monotonic() + SECONDS, deadline))
        text = log.read_text(errors="replace")
        found = kernels(text)
        if not found:
            last = " ".join(text.strip().splitlines()[-1:])
            checks.append(Check(backend, f"no counters: {last[:100]}", "counters", False))
        for name, metrics in found:
            print(f"{name}: {metrics}", flush=True)
            checks.append(Check(name, metrics))
    return checks, {}


def command(backend: str) -> list[str]:
    sections = [word for section in SECTIONS for word in ("--section", section)]
    options = ["--clock-control", "none", "--profile-from-start", "off", "--kernel-name", "regex:graph|edge|norm|live"]
    driver = [sys.executable, "-m", "benchmarks.gpu_check.profiled", backend]
    return ["ncu", *options, *sections, "--csv", "--page", "details", *driver]


def kernels(output: str) -> list[tuple[str, str]]:
    """The name and the table's text for each kernel in ncu's CSV, in the order of launches."""
    lines = output.splitlines()
    begin = next((i for i, line in enumerate(lines) if line.startswith('"ID"')), len(lines))
    found: dict[str, dict[str, str]] = {}
    names = {}
    for row in csv.DictReader(line for line in lines[begin:] if line.startswith('"')):
        metrics = found.setdefault(row["ID"], {})
        names[row["ID"]] = short(row["Kernel Name"])
        if row["Metric Name"] in SHOWN:
            metrics[row["Metric Name"]] = f"{row['Metric Value']} {row['Metric Unit']}".strip()
    return [(names[launch], described(metrics)) for launch, metrics in found.items()]


def described(metrics: dict[str, str]) -> str:
    """The values of the metrics in ``SHOWN``, in that order."""
    return ", ".join(f"{label} {metrics[name]}".strip() for name, label in SHOWN.items() if name in metrics)
