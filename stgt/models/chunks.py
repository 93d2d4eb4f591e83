"""Frees the activations of a part of a batch at once, and computes them again for its backward pass.

A loss that compares all pairs of a batch needs the outputs of all of them, but the activations of only one part at a
time. This gives the gradients of GradCache (Gao et al. 2021, arXiv 2101.06983), which also computes each part twice.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from torch import Tensor
from torch.utils.checkpoint import checkpoint

T = TypeVar("T")


def recomputed(function: Callable[..., T], *arguments: object) -> T:
    """function(*arguments), whose activations are not kept. Both times it draws the same random numbers.

    arguments: the tensors of the part, or dicts or tuples of them. The random state of a GPU is kept only if one of
    them is on this GPU.
    """
    return checkpoint(function, *arguments, use_reentrant=False)


def split_batch(batch: dict[str, Tensor], names: Sequence[str], size: int) -> list[dict[str, Tensor]]:
    """The entries of a batch with these names, if they are there, in parts of `size` rows. The last may be smaller."""
    whole = {name: batch[name] for name in names if name in batch}
    rows = max(map(len, whole.values()))
    return [{name: tensor[first : first + size] for name, tensor in whole.items()} for first in range(0, rows, size)]
