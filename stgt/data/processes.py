"""Processes that read files for another one: how they start, which signals reach them, and how they end."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from multiprocessing import forkserver, resource_tracker
from multiprocessing.context import ForkServerContext, ForkServerProcess

from stgt.signals import STOPPING


class ReaderProcess(ForkServerProcess):
    """A process without the signals in STOPPING, which ends as soon as the one that started it is gone.

    Ctrl-C and job schedulers send these signals to every process of a command. The one that started this process
    answers them, and needs what is read here until it has done so.
    """

    def start(self) -> None:
        # Whatever is started inherits the mask, the server of new processes as well. A signal that arrives meanwhile
        # is delivered afterwards.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)
        try:
            resource_tracker.ensure_running()  # this opens the mask for two of the signals where it starts the tracker
            signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)
            forkserver.set_forkserver_preload(["stgt.data.pixels", "stgt.data.samples"])
            super().start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def run(self) -> None:
        threading.Thread(target=_end_with_parent, daemon=True).start()
        super().run()

    def terminate(self) -> None:
        """End at once: SIGTERM does not reach this process."""
        self.kill()


class ReaderContext(ForkServerContext):
    """Like what `multiprocessing.get_context` returns, for processes that read files.

    They are forked from a server that has never decoded anything, since the locks and threads of decoders and of
    OpenMP do not survive a fork. The server imports once what the processes need.
    """

    Process = ReaderProcess


def _end_with_parent() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)
