"""Tells torch.func.vmap how to run the operators of edge attention: the mapped dimension becomes part of the heads."""

from collections.abc import Callable

import torch
from torch import Tensor


def fold_into_heads(op: Callable) -> Callable:
    """The rule of torch.func.vmap for an operator whose floating-point tensors all have H as their second dimension.

    A mapped dimension of size V becomes a part of the heads, of V * H, and comes back in the results. Tensors that are
    not mapped are repeated. Raises ValueError if a graph is mapped, and for dropout: the mask depends on a head's
    number, and that number is another one outside of vmap.
    """

    def rule(info, in_dims: tuple[int | None, ...], *args):
        folded = []
        for arg, dim in zip(args, in_dims, strict=True):
            if not isinstance(arg, Tensor):
                folded.append(arg)
            elif arg.dtype == torch.int64:
                raise ValueError("edge_attention: torch.func.vmap cannot map dropout; use dropout_p=0 or more heads")
            elif not arg.is_floating_point():
                if dim is not None:
                    raise ValueError("edge_attention: torch.func.vmap cannot map graphs; batch them in one RaggedGraph")
                folded.append(arg)
            else:
                sizes = arg.shape[0], info.batch_size, *arg.shape[1:]
                arg = arg.movedim(dim, 1) if dim is not None else arg[:, None].expand(sizes)
                folded.append(arg.flatten(1, 2))
        results = op(*folded)
        unfolded = tuple(
            r.unflatten(1, (info.batch_size, -1)) if r.ndim > 1 else r[:, None].expand(-1, info.batch_size)
            for r in results
        )
        return unfolded, (1,) * len(unfolded)

    return rule
