"""The table of cases in which Triton's kernels were measured to be faster than the CUDA kernels.

``backend="auto"`` takes Triton in these cases, and CUDA in all others. An entry is the GPU's compute capability, the
dtype, and a class of sizes: of the head dimension for graph_attention (``D<=64`` or ``D>64``) and for edge_attention
(``edge D<=64`` or ``edge D>64``), or of the number of patches for building the graph (``P<=64``, which is one tile, or
``P>64``). ``python -m benchmarks.gpu_check backends`` times a training step with each backend on the GPU of the
machine, and writes the entries for it into its results. The table is empty: on an H200, CUDA was
faster at the paper's size, and most other cases have not been measured.
"""

import torch


def size_class(name: str, size: int) -> str:
    """The class of the size with this name, such as ``D<=64`` or ``D>64`` for ``D``."""
    return f"{name}<=64" if size <= 64 else f"{name}>64"


FASTER_IN_TRITON: frozenset[tuple[str, torch.dtype, str]] = frozenset()
