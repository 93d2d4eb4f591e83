"""The base of the autograd functions of all ops."""

from typing import TypeVar

import torch
from torch import Tensor

T = TypeVar("T", Tensor, Tensor | None)


class KernelFunction(torch.autograd.Function):
    """An autograd function that torch.func's transforms can use, called with positional arguments alone.

    A subclass has ``forward``, ``setup_context`` and ``backward``. Under torch.func.vmap both passes call operators
    that have rules of their own (``fold_into_batch``).
    """

    generate_vmap_rule = True
    _direct: type[torch.autograd.Function]
    """The same function in the form that transforms cannot use, where forward gets the context"""

    def __init_subclass__(cls) -> None:
        def forward(ctx, *args):
            output = cls.forward(*args)
            cls.setup_context(ctx, args, output)
            return output

        methods = {"forward": staticmethod(forward), "backward": staticmethod(cls.backward)}
        cls._direct = type(cls.__name__, (torch.autograd.Function,), methods)

    @classmethod
    def apply(cls, *args):
        """Calls forward, in the quickest way that there is.

        Before each call of a function with ``setup_context``, PyTorch inspects the signature of forward, to fill in
        default values, which takes longer than all the rest. If nothing is recorded for a backward pass, only forward
        itself is called.
        """
        if torch._C._are_functorch_transforms_active() or torch.compiler.is_compiling():
            return super().apply(*args)
        return cls._direct.apply(*args) if _recorded(args) else cls.forward(*args)


def own_view(x: T) -> T:
    """Under torch.compile, a view of an argument of a function; otherwise the argument itself, which may be None.

    torch.compile refuses one tensor as two arguments, as q and k may be. And it takes a tensor that torch.func.grad
    hands over for one without a gradient.
    """
    return x.view_as(x) if x is not None and torch.compiler.is_compiling() else x


def _recorded(args: tuple) -> bool:
    """Whether a derivative may be asked for: a backward one, or a forward one, which PyTorch then refuses."""
    if torch.autograd.forward_ad._current_level >= 0:
        return True
    return torch.is_grad_enabled() and any(isinstance(arg, Tensor) and arg.requires_grad for arg in args)


def differentiable_once(op: str, gradients: tuple[Tensor | None, ...], *sources: Tensor | None):
    """The gradients that an op's backward pass computed from the sources, in tensors that refuse a second derivative.

    Whoever differentiates them gets a RuntimeError that names the op.
    """
    if not torch.is_grad_enabled():  # nobody records what the backward pass does
        return gradients
    return _Once.apply(op, len(gradients), *gradients, *sources)


class _Once(KernelFunction):
    """(op, count, *tensors) -> the first count tensors; the backward pass raises an error that names the op."""

    @staticmethod
    def forward(op, count, *tensors):
        return tuple(None if t is None else t.view_as(t) for t in tensors[:count])

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.op = inputs[0]

    @staticmethod
    def backward(ctx, *_):
        raise RuntimeError(
            f"{ctx.op}: the kernels have no second derivatives; backend='reference' can be differentiated twice"
        )
