"""Gathers tensors of all processes, so that losses see the global batch. In a single process, tensors are unchanged."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor


def world_size() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    return dist.get_rank() if world_size() > 1 else 0


class _Gather(torch.autograd.Function):
    """Concatenates along the first dimension. The gradient of a process's part is summed over all processes."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        out = x.new_empty(world_size() * x.shape[0], *x.shape[1:])
        dist.all_gather_into_tensor(out, x.contiguous())
        return out

    @staticmethod
    def backward(ctx, dout: Tensor) -> Tensor:
        dx = dout.new_empty(dout.shape[0] // world_size(), *dout.shape[1:])
        dist.reduce_scatter_tensor(dx, dout.contiguous())
        return dx


def gather(x: Tensor, gradients: bool = True) -> Tensor:
    """Every process's x, concatenated along the first dimension in the order of ranks.

    x: (n, …), of the same shape in all processes. Returns (world·n, …). With gradients, dx is the sum of the gradients
    from all processes. DDP averages parameter gradients over processes, so they become those of the mean of all losses.
    Without gradients, the result is a constant if there is more than one process, as in the released model.
    """
    return x if world_size() == 1 else _gathered(x if gradients else x.detach())


def gather_texts(input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
    """Every process's token ids and masks, padded to the longest text of all processes.

    input_ids, attention_mask: (n, L) int64; L may differ between processes. Returns both as (world·n, max L).
    """
    if world_size() == 1:
        return input_ids, attention_mask
    return _gathered_texts(input_ids, attention_mask)


def mean(x: Tensor) -> Tensor:
    """The mean of a tensor over processes, without gradients."""
    return x if world_size() == 1 else _mean(x)


def shared_uniform(*shape: int, device: torch.device, generator: torch.Generator | None = None) -> Tensor:
    """Uniform numbers in [0, 1) that rank 0 draws on the CPU, and that are the same in every process.

    generator: a CPU generator; None takes the default one. Every process draws, so that all generators keep one state.
    """
    numbers = torch.rand(*shape, generator=generator)
    # From pinned memory, the host does not wait for the copy.
    numbers = (numbers.pin_memory() if device.type == "cuda" else numbers).to(device, non_blocking=True)
    return numbers if world_size() == 1 else _from_first(numbers)


# torch.compile leaves out the functions below. In compiled code, a process that compiles its step again may wait for
# the others, which wait for this process, for ever. `torch.compiler.disable` would load all of torch._dynamo here.


@torch._disable_dynamo  # pyright: ignore[reportPrivateImportUsage]
def _gathered(x: Tensor) -> Tensor:
    return _Gather.apply(x)


@torch._disable_dynamo  # pyright: ignore[reportPrivateImportUsage]
def _gathered_texts(input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
    longest = torch.tensor(input_ids.shape[1], device=input_ids.device)
    dist.all_reduce(longest, dist.ReduceOp.MAX)
    missing = int(longest) - input_ids.shape[1]
    # The mask hides the padding, so the id of the padding does not matter.
    both = torch.nn.functional.pad(torch.stack([input_ids, attention_mask], 1), (0, missing))
    return _Gather.apply(both).unbind(1)


@torch._disable_dynamo  # pyright: ignore[reportPrivateImportUsage]
def _mean(x: Tensor) -> Tensor:
    total = x.detach().clone()
    dist.all_reduce(total)
    return total / world_size()


@torch._disable_dynamo  # pyright: ignore[reportPrivateImportUsage]
def _from_first(x: Tensor) -> Tensor:
    dist.broadcast(x, src=0)
    return x
