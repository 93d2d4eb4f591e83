"""Makes each run give the same bits, with torch's deterministic algorithms and a fixed number of threads."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

logger = logging.getLogger(__name__)


@contextmanager
def deterministic(enabled: bool) -> Iterator[None]:
    """Run a block with torch's deterministic algorithms if `enabled`, and restore the setting afterwards.

    Inside the block, an operation without a deterministic algorithm raises RuntimeError. cuBLAS reads its setting from
    the environment when it is first used, so the block should come before any other work on a GPU.
    """
    before = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        torch.utils.deterministic.fill_uninitialized_memory,
    )
    if enabled:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(enabled)
    # Torch would fill every new tensor with NaN to find reads of uninitialised memory. That costs time and changes no
    # result.
    torch.utils.deterministic.fill_uninitialized_memory = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        torch.utils.deterministic.fill_uninitialized_memory = before[2]


def warn_of_threads(before: int | None) -> None:
    """Log a warning if a run goes on with another number of threads than before. None stands for an unknown number."""
    here = torch.get_num_threads()
    if before not in (here, None):
        logger.warning(
            "the run had %d threads and now has %d, which rounds some sums differently; "
            "OMP_NUM_THREADS=%d gives the same bits as without the interruption", before, here, before,
        )  # fmt: skip
