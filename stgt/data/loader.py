"""Batches of a data set, read by other processes. Training, validation, evaluation and feature caches use this."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain

import torch
from torch.utils.data import DataLoader, Dataset, default_collate

from stgt.data.processes import ReaderProcess, reader_context

logger = logging.getLogger(__name__)


class LoaderError(RuntimeError):
    """The processes that read files were killed again and again, often because the memory was full."""


def read_batches(
    items: Dataset,
    batches: Iterable[Sequence],
    *,
    workers: int,
    collate: Callable[[list], object] = default_collate,
    pin_memory: bool = False,
) -> Iterator:
    """Read the items of batches with `workers` processes, or in this one if it is 0, and yield collate(items) in order.

    items: a data set that can be pickled. batches: the keys of each batch's items. If one of the processes is killed,
    the log says so, and all of them are started again with the batches that were not yielded yet. Raises LoaderError if
    that happens again before the next batch, UnguardedError (see `stgt.rerun`), and any error that the data set raises.
    """
    asked, rest, failed = deque(), iter(batches), False
    while True:
        loader = DataLoader(
            items,
            batch_sampler=_noted(chain(list(asked), rest), asked),
            num_workers=workers,
            collate_fn=collate,
            pin_memory=pin_memory,
            multiprocessing_context=reader_context() if workers else None,
            # Without a generator of its own, the loader would draw a seed from torch's default one.
            generator=torch.Generator(),
        )
        asked.clear()
        try:
            for batch in loader:
                asked.popleft()
                failed = False
                yield batch
            return
        except (RuntimeError, ConnectionError, EOFError) as error:
            if not (workers and _tells_of_a_death(error)):
                raise
            ReaderProcess.require_guard()
            if failed:
                raise LoaderError(f"{_KILLED}, and so was one of those that replaced it. {_ADVICE}") from error
            failed = True
            logger.warning("%s; new ones replace all of them. %s", _KILLED, _ADVICE)


_KILLED = "a process that reads videos was killed"
_ADVICE = "If the memory was full, let fewer processes read: --data.workers"


def _tells_of_a_death(error: Exception) -> bool:
    """Whether torch found a worker dead, or a message was cut off. Errors of the data set itself are neither."""
    if isinstance(error, RuntimeError):
        return "exited unexpectedly" in str(error)
    return "in DataLoader worker process" not in str(error)


def parts(length: int, size: int) -> list[range]:
    """The numbers below `length` in batches of `size`. The last batch may be smaller."""
    return [range(start, min(start + size, length)) for start in range(0, length, size)]


def _noted(batches: Iterable[Sequence], asked: deque) -> Iterator[Sequence]:
    for batch in batches:
        asked.append(batch)
        yield batch
