"""Where Triton's kernels were faster than the CUDA ones when they were timed against each other on a GPU.

``backend="auto"`` takes Triton there, and CUDA wherever else it can run. An entry is the GPU's compute capability, the
dtype, and the head dimension for graph_attention (``D<=64`` or ``D>64``) or the number of patches for the graph's
construction (``P<=64``: one tile, or ``P>64``). ``python -m benchmarks.gpu_check backends`` times a training step of
each on the GPU that it runs on, and writes this table for it into its results. No GPU has been measured yet.
"""

import torch


def size_class(letter: str, size: int) -> str:
    """``D<=64``, ``D>64``, ``P<=64`` or ``P>64``."""
    return f"{letter}<=64" if size <= 64 else f"{letter}>64"


FASTER_IN_TRITON: frozenset[tuple[str, torch.dtype, str]] = frozenset()
