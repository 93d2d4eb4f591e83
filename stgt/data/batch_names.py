"""The names of the batches of a store, and the items that each batch holds."""

from __future__ import annotations

import itertools
from bisect import bisect_right
from collections.abc import Iterator, Mapping


class ListedBatches(Mapping[str, range]):
    """Batches of any names and sizes, each with the numbers of its items."""

    def __init__(self, sizes: Mapping[str, int]) -> None:
        """sizes: the names of the batches and their numbers of items, in the order of the items."""
        self._starts = [*itertools.accumulate(sizes.values(), initial=0)]
        self._ranges = {name: range(*ends) for name, ends in zip(sizes, itertools.pairwise(self._starts), strict=True)}
        self._names = [*sizes]
        self.items_in_all = self._starts[-1]

    def __getitem__(self, name: str) -> range:
        return self._ranges[name]

    def __len__(self) -> int:
        return len(self._names)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def holding(self, item: int) -> str:
        """The name of the batch that holds an item."""
        return self._names[bisect_right(self._starts, item) - 1]


class NumberedBatches(Mapping[str, range]):
    """Batches of one size, whose names are their numbers. The last one may be smaller. They take no memory."""

    def __init__(self, items: int, size: int) -> None:
        self.items_in_all, self._size = items, size

    def __getitem__(self, name: str) -> range:
        start = int(name) * self._size if name.isdecimal() else -1
        if not 0 <= start < self.items_in_all or self.holding(start) != name:
            raise KeyError(name)
        return range(start, min(start + self._size, self.items_in_all))

    def __len__(self) -> int:
        return -(-self.items_in_all // self._size)

    def __iter__(self) -> Iterator[str]:
        return map(self.holding, range(0, self.items_in_all, self._size))

    def holding(self, item: int) -> str:
        """The name of the batch that holds an item."""
        return f"{item // self._size:06}"
