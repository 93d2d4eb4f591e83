"""Calls in processes of their own: an input that crashes a decoder, or keeps it busy for ever, costs itself only."""

from __future__ import annotations

import multiprocessing.connection
import time
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection
from typing import NamedTuple, TypeVar

from stgt.data.errors import VideoError
from stgt.data.processes import ReaderContext

Item, Result = TypeVar("Item"), TypeVar("Result")

_processes = ReaderContext()


class Failure(NamedTuple):
    """Why a call gave no result."""

    cause: str


def call_each(
    function: Callable[[Item], Result], items: Sequence[Item], *, timeout: float, jobs: int
) -> Iterator[Result | Failure]:
    """Call `function` for each item in other processes; yields its results, or `Failure`s, in the order of the items.

    timeout: seconds that one item may take; jobs: how many are worked on at a time. An item fails if the function
    raises an exception, is late, or crashes its process. Function, items and results are pickled.
    """
    workers = [_Worker(function, timeout) for _ in range(min(jobs, len(items)))]
    results: dict[int, Result | Failure] = {}
    given = 0
    try:
        for number in range(len(items)):
            while number not in results:
                for worker in workers:
                    # Results take much memory, so few of them may wait to be taken.
                    if worker.number is None and given < min(len(items), number + 2 * len(workers)):
                        worker.give(given, items[given])
                        given += 1
                _take(workers, results)
            yield results.pop(number)
    finally:
        for worker in workers:
            worker.stop()


def _take(workers: Sequence[_Worker], results: dict[int, object]) -> None:
    """Wait until a worker has a result, or is late, and take all results that are there."""
    busy = [worker for worker in workers if worker.number is not None]
    left = min(worker.deadline for worker in busy) - time.monotonic()
    ready = multiprocessing.connection.wait([worker.pipe for worker in busy], max(0.0, left))
    for worker in busy:
        if worker.pipe in ready or time.monotonic() > worker.deadline:
            results[worker.number] = worker.result()
            worker.number = None


class _Worker:
    """A process that is sent items; it is started when it is needed, and killed when it is late."""

    def __init__(self, function: Callable, timeout: float) -> None:
        self._function, self._timeout, self._process = function, timeout, None
        self.pipe: Connection | None = None
        self.number: int | None = None
        """Of the item that it works on"""
        self.deadline = 0.0

    def give(self, number: int, item: object) -> None:
        if self._process is None or not self._process.is_alive():
            self.stop()
            self._start()
        self.pipe.send(item)
        self.number, self.deadline = number, time.monotonic() + self._timeout

    def result(self) -> object:
        """What the function gave, or what is wrong with the item, if there is nothing yet or never will be."""
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
        self._process = _processes.Process(target=_serve, args=(self._function, theirs), daemon=True)
        self._process.start()
        theirs.close()
        self.pipe.recv()  # the process is up: its start does not count against the first item

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self.pipe.close()
            self._process = None


def _serve(function: Callable, pipe: Connection) -> None:
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
