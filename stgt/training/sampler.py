"""The order of a run's pairs, and each process's share of it."""

from __future__ import annotations

from collections.abc import Iterator

import torch


class BatchSampler:
    """The batches of a whole run, numbered from 0, so that a position in the run is one integer.

    Each epoch has another random order. It is the same for any number of processes, which take turns of `batch_size`
    pairs in it. The pairs at the end of an epoch that do not fill a batch are left out of this epoch.
    images: bool (length,), whether a pair is about an image. If there are both videos and images, as in the paper's
    pre-training, the batches of all processes have the same kind at a time, and the kinds follow each other at random.
    Raises ValueError if the pairs, or those of one kind, do not fill a batch of all processes.
    """

    def __init__(
        self,
        length: int,
        batch_size: int,
        *,
        seed: int,
        rank: int = 0,
        world: int = 1,
        images: torch.Tensor | None = None,
    ) -> None:
        self.whole = batch_size * world
        # None stands for all places in order. Ten million places of 4 bytes take 40 MB in each process.
        self.kinds: list[torch.Tensor | None] = [None]
        self.counts, names = [length], ["pairs"]
        if images is not None and images.any() and not images.all():
            self.kinds = [kind.nonzero().flatten().int() for kind in (~images, images)]
            self.counts, names = [len(places) for places in self.kinds], ["videos", "images"]
        for name, count in zip(names, self.counts, strict=True):
            if count < self.whole:
                expected = f"expected at least one batch: {batch_size} × {world} processes (batch_size or global_batch)"
                raise ValueError(f"the data set has {count} {name}, {expected}")
        self.batch_size, self.seed, self.rank, self.world = batch_size, seed, rank, world
        self.per_epoch = sum(count // self.whole for count in self.counts)
        self._order: tuple[int, torch.Tensor] | None = None

    def batch(self, number: int) -> list[tuple[int, int]]:
        """This process's part of a batch, as a pair (epoch, index) for each item."""
        epoch, place = divmod(number, self.per_epoch)
        if self._order is None or self._order[0] != epoch:
            self._order = None  # This frees the old order before the new one is made.
            self._order = epoch, self._shuffled(epoch)
        start = (place * self.world + self.rank) * self.batch_size
        return [(epoch, int(i)) for i in self._order[1][start : start + self.batch_size]]

    def _shuffled(self, epoch: int) -> torch.Tensor:
        seed = (self.seed * 1_000_003 + epoch) % 2**64  # the generator takes no larger one
        generator, whole = torch.Generator().manual_seed(seed), self.whole
        orders = []
        for places, count in zip(self.kinds, self.counts, strict=True):
            order = torch.randperm(count, generator=generator, dtype=torch.int32)
            orders.append(order if places is None else places[order])
        if len(orders) == 1:
            return orders[0]
        batches = torch.cat([order[: len(order) // whole * whole].view(-1, whole) for order in orders])
        return batches[torch.randperm(len(batches), generator=generator)].flatten()

    def batches(self, start: int, stop: int) -> Iterator[list[tuple[int, int]]]:
        """This process's parts of the batches from number `start` up to `stop`, which is not among them."""
        for number in range(start, stop):
            yield self.batch(number)
