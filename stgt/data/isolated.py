"""Calls in other processes, so that an input that crashes a decoder, or keeps it busy for ever, does no harm to others.

A decoder that waits for ever cannot be ended by a thread or a signal handler of its own process. So a few long-lived
processes make the calls, and are killed and replaced when a call takes too long or crashes its process.
"""

from __future__ import annotations

import importlib
import itertools
import multiprocessing.connection
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Generic, NamedTuple, TypeVar

from stgt.data.errors import VideoError
from stgt.data.processes import ReaderContext, ReaderProcess

Item, Result = TypeVar("Item"), TypeVar("Result")

_processes = ReaderContext()


class Failure(NamedTuple):
    """Why a call gave no result."""

    cause: str


def call_each(
    function: Callable[[Item], Result], items: Iterable[Item], *, timeout: float, jobs: int
) -> Iterator[Result | Failure]:
    """Call `function` for each item in other processes; yields its results, or `Failure`s, in the order of the items.

    items: they are taken one after the other, each as soon as a process is free. timeout: seconds that one item may
    take. jobs: how many items are worked on at a time. An item fails if the function raises an exception, takes too
    long, or crashes its process. Function, items and results are pickled. Raises UnguardedError, see `stgt.rerun`.
    """
    workers = [Worker(function, timeout) for _ in range(jobs)]
    results: dict[int, Result | Failure] = {}
    rest, given = iter(items), 0
    try:
        for number in itertools.count():
            while number not in results:
                for worker in workers:
                    # Results need much memory, so only a few of them may wait until they are taken.
                    if worker.number is None and given < number + 2 * jobs:
                        for item in itertools.islice(rest, 1):
                            worker.give(given, item)
                            given += 1
                if given == number:
                    return
                _take(workers, results)
            yield results.pop(number)
    finally:
        for worker in workers:
            worker.stop()


def _take(workers: Sequence[Worker[Item, Result]], results: dict[int, Result | Failure]) -> None:
    """Wait until a worker has a result or its time is over, and take all results that are there."""
    busy = [worker for worker in workers if worker.number is not None]
    left = min(worker.deadline for worker in busy) - time.monotonic()
    ready = multiprocessing.connection.wait([worker.pipe for worker in busy], max(0.0, left))
    for worker in busy:
        if worker.pipe in ready or time.monotonic() > worker.deadline:
            results[worker.number] = worker.result()
            worker.number = None


class Worker(Generic[Item, Result]):
    """A process that makes one call at a time. It is started at the first call, and again after one that failed."""

    def __init__(self, function: Callable[[Item], Result], timeout: float, *, imports: Sequence[str] = ()) -> None:
        """timeout: seconds that one call may take. imports: modules whose import does not count against a call."""
        self._function, self._timeout, self._imports = function, timeout, imports
        self._process = None
        self.pipe: Connection | None = None
        self.number: int | None = None
        """Number of the item that it works on"""
        self.deadline = 0.0

    def call(self, item: Item) -> Result | Failure:
        """Give an item and wait for its result."""
        self.give(0, item)
        multiprocessing.connection.wait([self.pipe], self._timeout)
        return self.result()

    def give(self, number: int, item: Item) -> None:
        """Send an item. If the process dies before it has the item, `result` tells that it crashed.

        Raises UnguardedError if the main script starts processes where it is imported.
        """
        if self._process is None or not self._process.is_alive():
            self.stop()
            self._start()
        with suppress(OSError):
            self.pipe.send(item)
        self.number, self.deadline = number, time.monotonic() + self._timeout

    def result(self) -> Result | Failure:
        """The result of the function. If there is none yet, the process is killed, and the item has failed."""
        try:
            if self.pipe.poll():
                return self.pipe.recv()
            cause = f"decoding did not end within {self._timeout:g} s"
        except (EOFError, OSError):
            self._process.join()
            cause = f"the decoder crashed with exit code {self._process.exitcode}"
        self.stop()
        return Failure(cause)

    def _start(self) -> None:
        self.pipe, theirs = _processes.Pipe()
        arguments = (self._function, theirs, self._imports)
        self._process = _processes.Process(target=_serve, args=arguments, daemon=True)
        self._process.start()
        theirs.close()
        try:
            self.pipe.recv()  # the process is ready: its start does not count against the first item
        except (EOFError, OSError):
            self._process.join()
            ReaderProcess.require_guard()

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self.pipe.close()
            self._process = None


def _serve(function: Callable[[Item], Result], pipe: Connection, imports: Sequence[str]) -> None:
    for module in imports:
        importlib.import_module(module)
    pipe.send(None)
    while True:
        try:
            item = pipe.recv()
        except EOFError:
            return
        try:
            result = function(item)
        except VideoError as error:
            result = Failure(str(error).removeprefix(f"{item}: "))
        except Exception as error:
            result = Failure(f"{type(error).__name__}: {error}")
        pipe.send(result)
