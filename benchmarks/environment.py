"""The environment that results depend on: hardware, versions, commit, date, and how busy the machine was."""

import importlib
import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
from datetime import date
from pathlib import Path

import torch

from stgt_kernels.report import hardware

ROOT = Path(__file__).parent.parent


def environment(device: torch.device) -> dict[str, object]:
    """The environment of this process and machine, as JSON values."""
    return {
        **(_gpu() if device.type == "cuda" else _cpu()),
        "load": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "triton", "numpy")},
        "commit": _commit(),
        "date": date.today().isoformat(),
    }


def summary(environment: dict[str, object]) -> str:
    return ", ".join(f"{name} {value}" for name, value in environment.items() if not isinstance(value, dict))


def folder_name(gpu: str) -> str:
    """The name of the folder for the results of a GPU with this name: "h200" for "NVIDIA H200"."""
    return re.sub(r"[^a-z0-9]+", "-", gpu.lower().removeprefix("nvidia").strip()).strip("-")


def _cpu() -> dict[str, object]:
    kernels = importlib.import_module("stgt_kernels._C")  # not above: benchmarks.gpu_check builds it on a new machine
    return {
        "hardware": hardware(torch.device("cpu")),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "instructions": kernels.build_info()["cpu_isa"],
        "threads": torch.get_num_threads(),
        "waiting": os.environ.get("OMP_WAIT_POLICY", "default").lower(),
        "spins": os.environ.get("GOMP_SPINCOUNT", "default"),
    }


def _gpu() -> dict[str, object]:
    """Only reads the clocks, and does not set them."""
    properties = torch.cuda.get_device_properties(torch.cuda.current_device())
    found = {
        "hardware": properties.name,
        "capability": f"{properties.major}.{properties.minor}",
        "cuda": torch.version.cuda,
    }
    if shutil.which("nvidia-smi"):
        names = ("driver_version", "clocks.sm", "clocks.mem", "power.draw", "temperature.gpu")
        command = ["nvidia-smi", f"--query-gpu={','.join(names)}", "--format=csv,noheader"]
        answer = subprocess.run(command, capture_output=True, text=True).stdout.splitlines()
        found |= dict(zip(names, (value.strip() for value in answer[0].split(",")), strict=False)) if answer else {}
    return found


def version(package: str) -> str:
    """The version of an installed package, or "none"."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "none"


def _commit() -> str:
    """The commit, with "+" after it if the code has changed since. Without git, STGT_COMMIT gives the commit."""
    try:
        command = ["git", "-C", str(ROOT)]
        commit = subprocess.run([*command, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True)
        changed = [*command, "status", "--porcelain", "--untracked-files=no", "--", ":!benchmarks/results", ":!*.md"]
        status = subprocess.run(changed, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError):
        return os.environ.get("STGT_COMMIT", "unknown")
    return commit.stdout.strip() + ("+" if status.stdout.strip() else "")
