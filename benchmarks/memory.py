"""Measures how much memory a call adds at its peak."""

import contextlib
import ctypes
import gc
import resource
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class OutOfMemoryError(Exception):
    """A call needs more memory than is available."""


def peak_memory(function: Callable[[], object], device: torch.device) -> int | None:
    """Bytes that a call adds at its peak: those of the whole process on a CPU, or None if the system is not Linux."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        function()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    if not CLEAR.exists():
        function()
        return None
    ctypes.CDLL(None).malloc_trim(0)  # returns freed memory to the system; reusing it would hide new allocations
    CLEAR.write_text("5")  # resets the peak
    before = _status("VmRSS")
    function()
    return max(_status("VmHWM") - before, 0)


@contextlib.contextmanager
def out_of_memory_is_an_error(device: torch.device) -> Iterator[None]:
    """Within the block, running out of memory raises OutOfMemoryError. Linux alone would kill the process, or swap."""
    limit = resource.RLIMIT_DATA
    before = resource.getrlimit(limit)
    if device.type == "cpu" and STATUS.exists():
        available = int(Path("/proc/meminfo").read_text().split("MemAvailable:")[1].split()[0]) * 1024
        resource.setrlimit(limit, (_status("VmData") + int(0.9 * available), before[1]))
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if "can't allocate memory" not in str(error) and not isinstance(error, (torch.OutOfMemoryError, MemoryError)):
            raise
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()
        raise OutOfMemoryError("out of memory") from error
    finally:
        resource.setrlimit(limit, before)


def _status(field: str) -> int:
    return int(STATUS.read_text().split(f"{field}:")[1].split()[0]) * 1024
