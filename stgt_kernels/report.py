"""A report of what is installed and which backends can run here. It needs torch alone, and bug reports ask for it."""

import importlib
import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

import stgt_kernels
from stgt_kernels import dispatch

# These variables change which kernels run, and how; the report shows those that are set.
VARIABLES = ("ATEN_CPU_CAPABILITY", "CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "TRITON_INTERPRET")


def report() -> str:
    """Names versions and devices, how the kernels were built, and for each backend the devices it runs on or a reason.

    Returns several lines, without a newline at the end.
    """
    variables = [f"{name}={value}" for name, value in sorted(os.environ.items()) if _matters(name)]
    cuda = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "built without CUDA"
    lines = [
        f"stgt_kernels {stgt_kernels.__version__}, Python {platform.python_version()}, {platform.platform()}",
        f"torch {torch.__version__}, {cuda}; triton {package_version('triton')}",
        f"cpu: {hardware(torch.device('cpu'))}, {platform.machine()}, {torch.get_num_threads()} threads, "
        f"PyTorch uses {torch.backends.cpu.get_cpu_capability()}",
        *(f"{device}: {_gpu(device)}" for device in _gpus()),
        *(_extension(module) for module in ("_C", "_cuda")),
        *(f"backend {name:9}: {_availability(name)}" for name in dispatch.BACKENDS),
        f"environment: {', '.join(variables) or 'no variable is set that changes what runs'}",
    ]
    return "\n".join(lines)


def package_version(package: str) -> str:
    """The version of an installed package, or the words "(not installed)"."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "(not installed)"


def hardware(device: torch.device) -> str:
    """The name of a GPU, or of the processor."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    models = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor()


def _matters(variable: str) -> bool:
    return variable in VARIABLES or variable.startswith("STGT_")


def _gpus() -> list[str]:
    return [f"cuda:{i}" for i in range(torch.cuda.device_count())]


def _gpu(device: str) -> str:
    major, minor = torch.cuda.get_device_capability(device)
    return f"{torch.cuda.get_device_name(device)}, compute capability {major}.{minor}"


def _extension(module: str) -> str:
    """How a compiled extension was built, or why it cannot be used."""
    if error := _fault(module):
        return f"{module}: {error}"
    info = importlib.import_module(f"stgt_kernels.{module}").build_info()
    return f"{module}: " + ", ".join(f"{name} {value or 'none'}" for name, value in info.items())


def _fault(module: str) -> str | None:
    """Why a compiled extension cannot be used, or None. STGT_CPU_ISA may name an instruction set that is not here."""
    if error := dispatch.extension_error(module):
        return error
    try:
        importlib.import_module(f"stgt_kernels.{module}").build_info()
    except RuntimeError as error:
        return str(error)
    return None


def _availability(backend: str) -> str:
    """The devices of this machine that a backend runs on, or why it runs on none."""
    if backend == "cpu" and (fault := _fault("_C")):
        return f"no: {fault}"
    able = [device for device in ("cpu", *_gpus()) if dispatch.why_not(backend, device) is None]
    if able:
        return f"yes, on {', '.join(able)}"
    home = "cpu" if backend == "cpu" else "cuda"
    return f"no: {dispatch.why_not(backend, home) or 'PyTorch finds no CUDA device'}"
