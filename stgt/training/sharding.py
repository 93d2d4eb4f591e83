"""Shares out the weights, the gradients and the optimizer's state of a model among the processes of a run (FSDP2)."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from stgt.distributed import World
from stgt.models.bert import Layer

if TYPE_CHECKING:
    from torch.distributed.fsdp import FSDPModule


class ShardedModel(nn.Module):
    """Runs a model of which each process holds a share: the first process the first rows of every tensor, and so on.

    A block is gathered while it is run, and again for its backward pass. The tensors outside the blocks, such as
    embeddings and heads, are gathered for a whole step. The parameters of `model` become DTensors, so an optimizer that
    is made afterwards has only the share as well. Gradients are averaged over the processes. A parameter without
    dimensions cannot be cut and is held by every process; `average_scalars` averages its gradient.
    outside: parameters that are not touched, because training does not use them.
    """

    def __init__(self, model: nn.Module, world: World, outside: Collection[nn.Parameter] = ()) -> None:
        # The imports take half a second, which runs without shards need not wait for.
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

        super().__init__()
        self.model, self.world = model, world
        outside = set(outside)
        self.scalars = {name: p for name, p in model.named_parameters() if p.ndim == 0 and p not in outside}
        for parameter in self.scalars.values():
            parameter.data = parameter.data.to(world.device)
        settings = {
            "mesh": init_device_mesh(world.device.type, (world.size,)),
            "ignored_params": outside | set(self.scalars.values()),
        }
        for block in blocks(model):
            if settings["ignored_params"].issuperset(block.parameters()):
                continue
            fully_shard(block, **settings)
            _gather_before(block, "forward")
            if isinstance(block, Layer):
                _gather_before(block, "keys")
                register_fsdp_forward_method(block, "keys")
        fully_shard(self, **settings)

    def forward(self, *arguments: object) -> object:
        """The model's result. Without arguments, nothing is run, and only what is outside the blocks is gathered."""
        return self.model(*arguments) if arguments else None

    def average_scalars(self) -> None:
        """Average the gradients of the parameters without dimensions over the processes. All must call this."""
        gradients = {name: p.grad for name, p in self.scalars.items() if p.grad is not None}
        if gradients:
            for name, mean in self.world.mean(gradients).items():
                self.scalars[name].grad.copy_(mean)

    def clip_gradients(self, largest: float) -> Tensor:
        """Scale the gradients so that the norm of the whole gradient is at most `largest`. All must call this.

        Returns the norm before that, a scalar.
        """
        from torch.distributed.tensor import DTensor

        trained = [p for p in self.model.parameters() if p.grad is not None]
        # torch refuses some operations on a list of cut and whole tensors.
        parts = [part for part in ([p for p in trained if p.ndim > 0], [p for p in trained if p.ndim == 0]) if part]
        norms = [nn.utils.get_total_norm([p.grad for p in part]) for part in parts]
        norms = [norm.full_tensor() if isinstance(norm, DTensor) else norm for norm in norms]
        norm = torch.linalg.vector_norm(torch.stack(norms))
        for part in parts:
            nn.utils.clip_grads_with_norm_(part, largest, norm)
        return norm

    @contextmanager
    def gathered(self) -> Iterator[None]:
        """Every process holds the whole weights during the block, so that it can run the model as often as it likes."""
        from torch.distributed.fsdp import FSDPModule

        parts = [module for module in self.modules() if isinstance(module, FSDPModule)]
        self()  # FSDP takes the first module that is run for the root
        self.set_reshard_after_forward(False)
        for part in parts:
            part.unshard()
        try:
            yield
        finally:
            # FSDP prefetches in an order that it records. It has to end with the same module in every process.
            self()
            self.set_reshard_after_forward(True)
            self.set_reshard_after_forward(False, recurse=False)
            for part in parts:
                part.reshard()


def _gather_before(block: FSDPModule, name: str) -> None:
    """Gather the block's parameters before each call of a method, if they are not there yet.

    torch 2.10 does not gather them if the backward pass computes a block again that it has already been through, as
    happens with `--loss.chunk`.
    """
    method = getattr(block, name)

    def gathered(*arguments: object, **options: object) -> object:
        block.unshard()
        return method(*arguments, **options)

    setattr(block, name, gathered)


def blocks(module: nn.Module) -> Iterator[nn.Module]:
    """The elements of the outermost lists of modules inside a module, such as the blocks of a transformer."""
    for child in module.children():
        if isinstance(child, nn.ModuleList):
            yield from child
        else:
            yield from blocks(child)
