"""Which backend runs an op, and why another cannot."""

import functools
import importlib.util
import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch

from stgt_kernels.measured import FASTER_IN_TRITON

BACKENDS = ("cuda", "triton", "cpu", "reference")
MAX_HEAD_DIM = 128
FLOAT_DTYPES = (torch.float32, torch.bfloat16, torch.float16)

logger = logging.getLogger("stgt_kernels")
_override: str | None = None
_announced: set[tuple[str, str]] = set()


@contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Within the block every op called with ``backend="auto"`` runs on this backend (process-wide, not per thread)."""
    global _override
    check_name(name)
    previous, _override = _override, name
    try:
        yield
    finally:
        _override = previous


def check_name(name: str) -> None:
    if name not in (*BACKENDS, "auto"):
        raise ValueError(f"backend must be one of {', '.join(BACKENDS)} or auto, got {name!r}")


@functools.cache
def extension_error(module: str) -> str | None:
    """Why a compiled extension is not there (None: it is), loading it on the first call."""
    if module == "_cuda" and torch.version.cuda is None:
        return "this PyTorch was built without CUDA"  # a library with CUDA symbols must not be loaded there
    try:
        importlib.import_module(f"stgt_kernels.{module}")
    except ImportError as error:
        return f"stgt_kernels.{module} is not built ({error}); install with: pip install --no-build-isolation ."
    return None


@functools.cache
def triton_error() -> str | None:
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed"
    return None


def compute_capability(device: torch.device) -> tuple[int, int] | None:
    return torch.cuda.get_device_capability(device) if torch.cuda.is_available() else None


@functools.cache
def architecture_error(device: torch.device) -> str | None:
    """Why the kernels of _cuda, which were compiled for some GPUs, do not run on this one (None: they do)."""
    extension = importlib.import_module("stgt_kernels._cuda")
    built, capability = extension.build_info()["architectures"], compute_capability(device)
    if capability is None:
        return "no CUDA device is available"
    if any(runs_on(architecture, capability) for architecture in built.split()):
        return None
    own = ".".join(map(str, capability))
    return f"stgt_kernels._cuda is built for {built}, this GPU is {own}; rebuild with TORCH_CUDA_ARCH_LIST={own}"


def runs_on(architecture: str, capability: tuple[int, int]) -> bool:
    """Whether code for an architecture, named as in TORCH_CUDA_ARCH_LIST, runs on a GPU of this compute capability.

    8.6 is machine code for 8.6 and later 8.x, 9.0a for 9.0 alone; drivers compile 8.0+PTX for all from 8.0 on.
    """
    known = re.fullmatch(r"(\d+)\.(\d)([af]?)(\+PTX)?", architecture)
    if known is None:
        raise ValueError(f"architecture must be like 8.6, 8.6+PTX or 9.0a, got {architecture!r}")
    major, minor, letter, ptx = known.groups()
    own = int(major), int(minor)
    if own == capability or (ptx and own < capability):
        return True
    return not letter and own[0] == capability[0] and own < capability


def interpreted() -> bool:
    """Whether Triton runs its kernels in Python, on CPU tensors."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def why_not(backend: str, device: torch.device | str, dtype: torch.dtype = torch.float32) -> str | None:
    """The reason why ``backend`` cannot run tensors of this device and dtype; None if it can."""
    check_name(backend)
    device = torch.device(device)
    if backend in ("reference", "auto"):
        return None
    if backend == "cpu":
        if device.type != "cpu":
            return f"it runs on CPU tensors, these are on {device}"
        if dtype not in (*FLOAT_DTYPES, torch.float64):
            return f"it computes in float32, float64, bfloat16 and float16, not {dtype}"
        return extension_error("_C")
    if dtype not in FLOAT_DTYPES:
        return f"it computes in float32, bfloat16 and float16, not {dtype}"
    if backend == "cuda":
        if device.type != "cuda":
            return f"it runs on CUDA tensors, these are on {device}"
        return extension_error("_cuda") or architecture_error(device)
    if error := triton_error():
        return error
    if device.type == "cuda" or (device.type == "cpu" and interpreted()):
        if interpreted() and dtype == torch.bfloat16:
            return "Triton's interpreter computes bfloat16 wrongly"
        return None
    return f"it runs on CUDA tensors (or on CPU tensors with TRITON_INTERPRET=1), these are on {device}"


# It imports and reads the environment: torch.compile asks once, as it traces. The decorator for this,
# torch.compiler.assume_constant_result, sets just this too, but first loads all of torch._dynamo and triton.
why_not._dynamo_marked_constant = True


def faster_in_triton(device: torch.device, dtype: torch.dtype, size: str) -> bool:
    """Whether it was measured to be, on GPUs like this one and at this class of sizes (measured.py)."""
    capability = compute_capability(device)
    return capability is not None and (".".join(map(str, capability)), dtype, size) in FASTER_IN_TRITON


faster_in_triton._dynamo_marked_constant = True


def choose(backend: str, device: torch.device, dtype: torch.dtype, op: str, size: str) -> str:
    """The backend that runs: the one named (an error if it cannot), or for ``auto`` the fastest that can.

    size: the class of sizes of the op's arguments, of measured.size_class.
    """
    check_name(backend)
    if backend == "auto" and _override is not None:
        backend = _override
    if backend != "auto":
        if reason := why_not(backend, device, dtype):
            raise ValueError(f"{op}: backend={backend!r} cannot run: {reason}")
        return backend
    able = [name for name in BACKENDS if available(name, device, dtype)]
    chosen = able[0]
    if able[:2] == ["cuda", "triton"] and faster_in_triton(device, dtype, size):
        chosen = "triton"
    if not torch.compiler.is_compiling() and (op, chosen) not in _announced:
        _announced.add((op, chosen))
        logger.info("%s runs on backend %s", op, chosen)
    return chosen


def autocast_dtype(device: torch.device) -> torch.dtype | None:
    """The dtype that autocast gives on tensors of this device, None where it is off; meta tensors have none."""
    if device.type == "meta" or not torch.is_autocast_enabled(device.type):
        return None
    return torch.get_autocast_dtype(device.type)


def without_autocast(device: torch.device):
    """A context in which nothing is cast."""
    return nullcontext() if device.type == "meta" else torch.autocast(device.type, enabled=False)


def available(backend: str, device: torch.device, dtype: torch.dtype) -> bool:
    """Whether ``auto`` may choose it: interpreted Triton is for tests, and has to be asked for by name."""
    return why_not(backend, device, dtype) is None and not (backend == "triton" and interpreted())
