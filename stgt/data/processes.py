"""Processes that read files for another process: their start, their signals and their end."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import forkserver, resource_tracker
from multiprocessing.context import ForkServerContext, ForkServerProcess
from typing import ClassVar

from stgt.rerun import EXIT_CODE, READER, UnguardedError, end_if_rerun
from stgt.signals import STOPPING


class ReaderProcess(ForkServerProcess):
    """A process that ignores the signals in STOPPING, and ends as soon as the process that started it is gone.

    Ctrl-C and job schedulers send these signals to every process of a command. The process that started this one
    answers them, and until then it still needs what is read here.
    """

    _started: ClassVar[weakref.WeakSet[ReaderProcess]] = weakref.WeakSet()

    def start(self) -> None:
        start_server()
        self.name = f"{READER} {self.name}"
        self._started.add(self)
        with _signals_held():
            super().start()

    @classmethod
    def require_guard(cls) -> None:
        """Raise UnguardedError if one of these processes ended because the main script would have started more."""
        if any(process.exitcode == EXIT_CODE for process in cls._started):
            raise UnguardedError from None

    def run(self) -> None:
        threading.Thread(target=_end_with_parent, daemon=True).start()
        super().run()

    def terminate(self) -> None:
        """End at once: SIGTERM does not reach this process."""
        self.kill()


class ReaderContext(ForkServerContext):
    """A multiprocessing context for processes that read files.

    They are forked from a server that has never decoded anything, because the locks and threads of decoders and of
    OpenMP do not survive a fork. The server imports the modules that they need once.
    """

    Process = ReaderProcess


def reader_context() -> ReaderContext:
    """A context whose queues and locks can be used at once.

    They start multiprocessing's resource tracker, which must not die of a signal before the processes end.
    """
    end_if_rerun()
    with _signals_held():
        return ReaderContext()


def start_server() -> None:
    """Start the server that readers are forked from, unless it runs.

    This returns at once. The server imports its modules while this process does other things, such as to make a model.
    """
    end_if_rerun()
    with _signals_held():
        forkserver.set_forkserver_preload(["stgt.data.samples", "stgt.data.windows"])
        forkserver.ensure_running()


@contextmanager
def _signals_held() -> Iterator[None]:
    """Run a block in which new processes inherit that the signals in STOPPING are blocked.

    Multiprocessing's resource tracker runs afterwards. A signal that arrives meanwhile is delivered afterwards.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)
    try:
        resource_tracker.ensure_running()  # starting the tracker unblocks two of the signals
        signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _end_with_parent() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)
