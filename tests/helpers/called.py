"""This module tells which operators a function calls."""

from collections.abc import Callable

from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode


def called(function: Callable[[], object]) -> list[str]:
    """The names of the operators that a function calls, such as aten::mm."""
    with profile(activities=[ProfilerActivity.CPU]) as recorded:
        function()
    return [event.name for event in recorded.events() if "::" in event.name]


def calls(operator: str, function: Callable[[], object]) -> bool:
    """Whether a function calls an operator."""
    return operator in called(function)


class _Passing(TorchDispatchMode):
    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        return function(*args, **(kwargs or {}))


def under_a_dispatch_mode(function: Callable, *arguments: object) -> object:
    """function(*arguments) under a mode that changes nothing."""
    with _Passing():
        return function(*arguments)
