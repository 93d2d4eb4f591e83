"""Tells torch.func.vmap how to run the kernels' operators: the mapped dimension becomes a part of the batch."""

from collections.abc import Callable

import torch
from torch import Tensor


def fold_into_batch(op: Callable) -> Callable:
    """The rule of torch.func.vmap for an operator whose tensors all begin with the batch dimension B.

    A mapped dimension of size V becomes a part of the batch, of V * B samples, and comes back in the results. Tensors
    that are not mapped are repeated. Raises ValueError for a seed, which is the only tensor of int64: the dropout mask
    depends on a sample's number in the batch, and that number is another one outside of vmap.
    """

    def rule(info, in_dims: tuple[int | None, ...], *args):
        folded = []
        for arg, dim in zip(args, in_dims, strict=True):
            if not isinstance(arg, Tensor):
                folded.append(arg)
                continue
            if arg.dtype == torch.int64:
                raise ValueError(
                    "graph_attention: torch.func.vmap cannot map dropout; use dropout_p=0 or a larger batch"
                )
            arg = arg.movedim(dim, 0) if dim is not None else arg.expand(info.batch_size, *arg.shape)
            folded.append(arg.flatten(0, 1))
        results = op(*folded)
        several = isinstance(results, tuple)
        unfolded = tuple(
            r.unflatten(0, (info.batch_size, -1)) if len(r) else r.expand(info.batch_size, *r.shape)
            for r in (results if several else (results,))
        )
        return (unfolded, (0,) * len(unfolded)) if several else (unfolded[0], 0)

    return rule
