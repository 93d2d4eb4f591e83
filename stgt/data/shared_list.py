"""A list that costs the processes which read batches no memory, however long it is."""

from __future__ import annotations

import operator
import pickle
from collections.abc import Iterable, Iterator, Sequence
from typing import Generic, TypeVar

import torch

Item = TypeVar("Item")


class SharedList(Sequence[Item], Generic[Item]):
    """A list whose items lie pickled in one tensor, as torch moves tensors to memory that processes share.

    The items of a plain list are copied into each process that it is sent to, a few hundred bytes for each caption.
    """

    def __init__(self, items: Iterable[Item]) -> None:
        contents, ends = bytearray(), [0]
        for item in items:
            contents += pickle.dumps(item)
            ends.append(len(contents))
        self._ends = torch.tensor(ends)
        self._contents = torch.frombuffer(contents or bytearray(1), dtype=torch.uint8)

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, number: int | slice) -> Item | list[Item]:
        if isinstance(number, slice):
            return [self[each] for each in range(*number.indices(len(self)))]
        if not -len(self) <= number < len(self):
            raise IndexError(f"number is {number}, expected one below {len(self)}")
        begin, end = self._ends[number % len(self) :][:2].tolist()
        return pickle.loads(self._contents[begin:end].numpy().data)

    def __iter__(self) -> Iterator[Item]:
        return (self[number] for number in range(len(self)))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and len(self) == len(other) and all(map(operator.eq, self, other))

    def __repr__(self) -> str:
        return repr(list(self))
