"""The choice of the backend for an op, and the reasons why others cannot run it."""

import functools
import importlib.util
import logging
import os
import re
import shlex
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import torch

from stgt_kernels.measured import FASTER_IN_TRITON, size_class

BACKENDS = ("cuda", "triton", "cpu", "reference")
MAX_HEAD_DIM = 128
FLOAT_DTYPES = (torch.float32, torch.bfloat16, torch.float16)

logger = logging.getLogger("stgt_kernels")
_override = "auto"
_announced: set[tuple[str, str]] = set()
# The choices of `fastest`, which are made once. The reference is not kept here, because its warning may be repeated.
_fastest: dict[tuple[torch.device, torch.dtype, str, str], str] = {}
_warned: set[str] = set()


class ReferenceWarning(UserWarning):
    """``backend="auto"`` found no kernel, and runs ops on the dense, slow reference. The message says why."""


@contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Within the block, every op that is called with ``backend="auto"`` runs on this backend, in all threads.

    name: ``cuda``, ``triton``, ``cpu`` or ``reference``; ``auto`` leaves the choice as it is without a block. Raises
    ValueError for any other name. An op raises ValueError in the block if the backend cannot run it.
    """
    global _override
    check_name(name)
    previous, _override = _override, name
    try:
        yield
    finally:
        _override = previous


def check_name(name: str, what: str = "backend") -> None:
    """Raises ValueError if no backend has this name. what: the argument or variable that holds the name."""
    if name not in (*BACKENDS, "auto"):
        raise ValueError(f"{what} must be one of {', '.join(BACKENDS)} or auto, got {name!r}")


@functools.cache
def extension_error(module: str) -> str | None:
    """The reason why a compiled extension cannot be loaded, or None. The first call loads it."""
    if module == "_cuda" and torch.version.cuda is None:
        return "this PyTorch was built without CUDA"  # loading a library with CUDA symbols would fail
    try:
        importlib.import_module(f"stgt_kernels.{module}")
    except ImportError as error:
        return f"stgt_kernels.{module} is not built ({error}); {_how_to_build(module)}"
    return None


def _how_to_build(module: str) -> str:
    """Advice on a missing extension. In its root, a clone hides an installed copy, which has the extension."""
    root = Path(__file__).parents[1]
    in_clone = (root / "setup.py").exists()
    command = f"pip install --no-build-isolation {f'--editable {shlex.quote(str(root))}' if in_clone else '.'}"
    if module == "_cuda" and extension_error("_C") is None:
        return f"it needs nvcc and a CUDA build of PyTorch; this says what is missing: STGT_BUILD_CUDA=1 {command}"
    if not in_clone:
        return f"install with: {command}"
    return (
        f"Python imports the package from the clone {root}, into which only an editable installation builds: "
        f"start Python in another folder, or install with: {command}"
    )


@functools.cache
def triton_error() -> str | None:
    """The reason why Triton's kernels cannot be used at all, or None."""
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed; install it with: pip install triton"
    return None


def compute_capability(device: torch.device) -> tuple[int, int] | None:
    """The compute capability of a GPU, such as (9, 0), or None if PyTorch finds no GPU."""
    return torch.cuda.get_device_capability(device) if torch.cuda.is_available() else None


@functools.cache
def architecture_error(device: torch.device) -> str | None:
    """The reason why the kernels of _cuda, which are compiled for some GPUs, do not run on this one, or None."""
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

    8.6 is machine code for 8.6 and later 8.x, and 9.0a is machine code for 9.0 alone. Drivers compile 8.0+PTX for all
    GPUs from 8.0 on. capability: major and minor number. Raises ValueError for another form of the name.
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
    """The reason why ``backend`` cannot run ops on tensors of this device and dtype, or None if it can.

    Raises ValueError for an unknown name of a backend, and PyTorch's TypeError or RuntimeError for what is no device.
    """
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


# why_not imports modules and reads the environment, which torch.compile cannot trace. With this attribute it is called
# once, and the result kept. torch.compiler.assume_constant_result sets it, too, but first loads all of torch._dynamo.
why_not._dynamo_marked_constant = True


def choose(backend: str, device: torch.device, dtype: torch.dtype, op: str, size_name: str, size: int) -> str:
    """The backend that runs an op: the one that was asked for, or with ``auto`` the fastest that can run.

    The argument asks for a backend. If it is ``auto``, ``use_backend`` may ask for one, and then STGT_BACKEND.
    size_name, size: the name of a size, such as D, and the size, which ``measured.size_class`` sorts into a class.
    Raises ValueError if the backend that was asked for cannot run.
    """
    check_name(backend)
    source = "backend"
    if backend == "auto":
        backend = _override
    if backend == "auto":
        backend, source = environment_backend(), "STGT_BACKEND"
    if backend == "auto":
        # Without measurements, sizes are not compared: torch.export would limit its programs to one of the classes.
        return fastest(device, dtype, op, size_class(size_name, size) if FASTER_IN_TRITON else size_name)
    if reason := why_not(backend, device, dtype):
        raise ValueError(f"{op}: {source}={backend!r} cannot run: {reason}")
    return backend


def cpu_kernels_wanted() -> bool:
    """Whether ops that PyTorch has as well run on the CPU's kernels: unless another backend was asked for."""
    backend = environment_backend() if _override == "auto" else _override
    return backend in ("auto", "cpu") and extension_error("_C") is None


def environment_backend() -> str:
    """The backend that STGT_BACKEND names, or ``auto``. The first call reads the variable, and logs it if it is set."""
    return _read_environment()


environment_backend._dynamo_marked_constant = True


@functools.cache
def _read_environment() -> str:
    name = os.environ.get("STGT_BACKEND") or "auto"
    check_name(name, "STGT_BACKEND")
    if name != "auto":
        logger.warning("STGT_BACKEND=%s: every op that is called with backend='auto' runs on that backend", name)
    return name


def fastest(device: torch.device, dtype: torch.dtype, op: str, size: str) -> str:
    """The fastest backend that can run. The log names it once, and a warning says so if it is the reference."""
    if chosen := _fastest.get((device, dtype, op, size)):
        return chosen
    able = [name for name in BACKENDS if available(name, device, dtype)]
    chosen = able[0]
    if able[:2] == ["cuda", "triton"] and faster_in_triton(device, dtype, size):
        chosen = "triton"
    if chosen == "reference" and device.type != "meta":  # meta tensors have no values to compute
        _warn_of_reference(device, dtype)
    if (op, chosen) not in _announced:
        _announced.add((op, chosen))
        logger.info("%s runs on backend %s", op, chosen)
    if chosen != "reference":
        _fastest[device, dtype, op, size] = chosen
    return chosen


fastest._dynamo_marked_constant = True


def available(backend: str, device: torch.device, dtype: torch.dtype) -> bool:
    """Whether ``auto`` may choose a backend. Interpreted Triton is for tests, and runs only if asked for by name."""
    return why_not(backend, device, dtype) is None and not (backend == "triton" and interpreted())


def faster_in_triton(device: torch.device, dtype: torch.dtype, size: str) -> bool:
    """Whether measured.py says that Triton is faster than CUDA on such a GPU, for this dtype and class of sizes."""
    capability = compute_capability(device)
    return capability is not None and (".".join(map(str, capability)), dtype, size) in FASTER_IN_TRITON


def _warn_of_reference(device: torch.device, dtype: torch.dtype) -> None:
    kernels = {"cpu": ("cpu",), "cuda": ("cuda", "triton")}.get(device.type, ("cuda", "triton", "cpu"))
    reasons = "; ".join(f"{name}: {why_not(name, device, dtype)}" for name in kernels)
    message = (
        f"no kernel of stgt_kernels runs {dtype} tensors on {device.type} here, so backend='auto' computes with dense "
        "matrices in plain PyTorch: slowly, and in memory that grows with the square of the number of tokens. Pass "
        f"backend='reference' if that is what you want. Otherwise mend what keeps the kernels from running: {reasons}"
    )
    if message not in _warned:
        warnings.warn(message, ReferenceWarning, stacklevel=_level_of_caller())
        _warned.add(message)  # last, so that a filter that turns warnings into errors raises each time


def _level_of_caller() -> int:
    """The ``stacklevel`` with which a warning of the calling function points at the line that called this package.

    Between the two may be PyTorch's own frames, such as that of a module's call.
    """
    inside = tuple(f"{Path(file).parent}{os.sep}" for file in (__file__, torch.__file__))
    frame, level = sys._getframe(1), 1
    while frame.f_back is not None and frame.f_code.co_filename.startswith(inside):
        frame, level = frame.f_back, level + 1
    return level


def autocast_dtype(device: torch.device) -> torch.dtype | None:
    """The dtype that autocast gives tensors on this device. None if autocast is off, and for meta tensors."""
    if device.type == "meta" or not torch.is_autocast_enabled(device.type):
        return None
    return torch.get_autocast_dtype(device.type)


def without_autocast(device: torch.device):
    """A context in which autocast is off."""
    return nullcontext() if device.type == "meta" else torch.autocast(device.type, enabled=False)
