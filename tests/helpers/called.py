"""This module tells which operators a function calls."""

from collections.abc import Callable

from torch.utils._python_dispatch import TorchDispatchMode


class Called(TorchDispatchMode):
    """Notes the names of the operators that are called within the block, such as aten::mm, in `names`."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.names.append(function._schema.name)
        return function(*args, **(kwargs or {}))


def calls(operator: str, function: Callable[[], object]) -> bool:
    """Whether a function calls an operator."""
    with Called() as called:
        function()
    return operator in called.names
