"""What is installed and what can run here."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

import stgt_kernels
from stgt_kernels import dispatch

PACKAGES = ("torch", "triton", "transformers", "open_clip_torch", "timm", "av", "decord", "safetensors")


def print_info() -> None:
    """Print versions, devices, the kernels' build and each backend with the reason why it cannot run."""
    print(f"stgt_kernels {stgt_kernels.__version__}, Python {platform.python_version()}, {platform.platform()}")
    print(", ".join(f"{package} {_version(package)}" for package in PACKAGES))
    devices = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
    print(f"cpu: {torch.get_num_threads()} threads")
    for device in devices[1:]:
        print(f"{device}: {torch.cuda.get_device_name(device)}")
    if dispatch.extension_error("_C") is None:
        from stgt_kernels import _C

        print("kernels: " + ", ".join(f"{name} {value or '-'}" for name, value in _C.build_info().items()))
    for device in ("cpu", "cuda") if len(devices) > 1 else ("cpu",):
        for backend in dispatch.BACKENDS:
            reason = dispatch.why_not(backend, device)
            print(f"backend {backend:9} on {device:4}: {'no: ' + reason if reason else 'yes'}")


def hardware(device: torch.device) -> str:
    """The GPU's name, or the processor's."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    models = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "(not installed)"
