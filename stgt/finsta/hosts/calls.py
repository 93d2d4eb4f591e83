"""Records the arguments and the result of a module while its model runs."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from torch import nn


class Call(NamedTuple):
    """One call of a module."""

    arguments: dict[str, Any]
    """The arguments of `forward` by their names; those that the caller left out are absent"""
    output: Any


@contextmanager
def calls_of(module: nn.Module) -> Iterator[list[Call]]:
    """A list that gets an entry for each call of the module in the block."""
    found: list[Call] = []
    signature = inspect.signature(module.forward)

    def note(module: nn.Module, args: tuple, kwargs: dict, output: object) -> None:
        found.append(Call(dict(signature.bind(*args, **kwargs).arguments), output))

    handle = module.register_forward_hook(note, with_kwargs=True)
    try:
        yield found
    finally:
        handle.remove()
