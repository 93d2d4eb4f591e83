"""Calls in processes of their own: an input that crashes a decoder, or keeps it busy for ever, costs itself only."""

from __future__ import annotations

import multiprocessing
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from typing import NamedTuple, TypeVar

from stgt.data.errors import VideoError

Item, Result = TypeVar("Item"), TypeVar("Result")

# A new process is forked from a server without threads: those of torch and of the decoders may hold locks, which a fork
# would copy. The server has the decoders loaded, so that a new process is there at once.
_processes = multiprocessing.get_context("forkserver")
_processes.set_forkserver_preload(["stgt.data.clip"])


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
    workers = [_Worker(function) for _ in range(min(jobs, len(items)))]
    idle, pending = list(workers), deque()

    def one(item: Item) -> Result | Failure:
        worker = idle.pop()
        try:
            return worker.call(item, timeout)
        finally:
            idle.append(worker)

    threads = ThreadPoolExecutor(max(1, len(workers)))
    try:
        for item in items:
            pending.append(threads.submit(one, item))
            if len(pending) > 2 * len(workers):  # results take much memory, so few of them may wait to be taken
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        threads.shutdown(wait=False, cancel_futures=True)
        for worker in workers:
            worker.kill()
        threads.shutdown()
        for worker in workers:
            worker.stop()


class _Worker:
    """A process that is sent items; it is started when it is needed, and killed when it is late."""

    _starting = threading.Lock()

    def __init__(self, function: Callable) -> None:
        self._function, self._process = function, None

    def call(self, item: object, timeout: float) -> object:
        if self._process is None or not self._process.is_alive():
            self.stop()
            self._start()
        try:
            self._pipe.send(item)
            if self._pipe.poll(timeout):
                return self._pipe.recv()
            cause = f"decoding did not end within {timeout:g} s"
        except (EOFError, OSError):
            self._process.join()
            cause = f"the decoder crashed with exit code {self._process.exitcode}"
        self.stop()
        return Failure(cause)

    def _start(self) -> None:
        with self._starting:
            self._pipe, theirs = _processes.Pipe()
            self._process = _processes.Process(target=_serve, args=(self._function, theirs), daemon=True)
            self._process.start()
            theirs.close()
        self._pipe.recv()  # the process is up: its start does not count against the first item

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._pipe.close()
            self._process = None


def _serve(function: Callable, pipe: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that waits for the results
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
