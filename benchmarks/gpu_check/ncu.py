"""Nsight Compute's summary of every kernel at the paper's shape. The clocks are left as they are."""

import csv
import io
import shutil
import subprocess
import sys
from pathlib import Path

from benchmarks.environment import ROOT
from benchmarks.gpu_check.report import Check

SECTIONS = (
    "SpeedOfLight",
    "ComputeWorkloadAnalysis",
    "MemoryWorkloadAnalysis",
    "LaunchStats",
    "Occupancy",
    "SchedulerStats",
    "WarpStateStats",
)
SHOWN = {  # metric: how the table names it
    "Duration": "",
    "Compute (SM) Throughput": "SM",
    "DRAM Throughput": "DRAM",
    "L2 Cache Throughput": "L2",
    "Achieved Occupancy": "occupancy",
    "Registers Per Thread": "registers",
}


def run(out: Path) -> tuple[list[Check], dict]:
    if shutil.which("ncu") is None:
        return [Check("ncu", "not installed", "", None)], {}
    out.mkdir(parents=True, exist_ok=True)
    checks = []
    for backend in ("cuda", "triton"):
        done = subprocess.run(command(backend), cwd=ROOT, capture_output=True, text=True, timeout=250)
        (out / f"ncu-{backend}.csv").write_text(done.stdout)
        found = kernels(done.stdout)
        if not found:
            last = (done.stdout + done.stderr).strip().splitlines()[-1:]
            checks.append(Check(backend, f"no counters: {' '.join(last)[:100]}", "counters", False))
        checks += [Check(name, text) for name, text in found]
    return checks, {}


def command(backend: str) -> list[str]:
    sections = [word for section in SECTIONS for word in ("--section", section)]
    options = ["--clock-control", "none", "--profile-from-start", "off", "--kernel-name", "regex:graph|norm|live"]
    driver = [sys.executable, "-m", "benchmarks.gpu_check.profiled", backend]
    return ["ncu", *options, *sections, "--csv", "--page", "details", *driver]


def kernels(output: str) -> list[tuple[str, str]]:
    """Each kernel of ncu's CSV, in order of launch, and what the table shows of it."""
    lines = output.splitlines()
    begin = next((i for i, line in enumerate(lines) if line.startswith('"ID"')), len(lines))
    found: dict[str, dict[str, str]] = {}
    names = {}
    for row in csv.DictReader(io.StringIO("\n".join(lines[begin:]))):
        metrics = found.setdefault(row["ID"], {})
        names[row["ID"]] = row["Kernel Name"].partition("(")[0]
        if row["Metric Name"] in SHOWN:
            metrics[row["Metric Name"]] = f"{row['Metric Value']} {row['Metric Unit']}".strip()
    return [(names[launch], described(metrics)) for launch, metrics in found.items()]


def described(metrics: dict[str, str]) -> str:
    """``SHOWN`` of it, in that order."""
    return ", ".join(f"{label} {metrics[name]}".strip() for name, label in SHOWN.items() if name in metrics)
