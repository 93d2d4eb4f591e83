"""Fresh memory full of NaN, so a read of memory that was not written shows in the result."""

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch

M_PERTURB = -6  # of glibc's malloc.h
NAN_BYTES = 0x100  # glibc fills with the complement of the low byte: 0xff, a NaN in every float format


@contextmanager
def poisoned_memory() -> Iterator[None]:
    """Within the block, fresh memory is NaN: empty tensors of Python and C++, and with glibc all memory of malloc.

    An output that no kernel writes then shows in the result, as does a padding of a workspace that a kernel reads.
    """
    mallopt = ctypes.CDLL(None).mallopt if sys.platform == "linux" else lambda option, value: None
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)  # this also fills empty tensors
    mallopt(M_PERTURB, NAN_BYTES)
    try:
        yield
    finally:
        mallopt(M_PERTURB, 0)
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
