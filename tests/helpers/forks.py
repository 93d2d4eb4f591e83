"""Runs functions like commands of a shell, in forks of this process: a new process would import torch for seconds."""

import atexit
import multiprocessing
import os
import random
import sys
from collections.abc import Callable
from multiprocessing import forkserver

import numpy as np
import torch
import torch._dynamo  # every optimizer imports it, which takes longer than all else that a fork does here
import torch.utils.tensorboard  # noqa: F401

from stgt.__main__ import main

_processes = multiprocessing.get_context("fork")


class Fork:
    """A function that runs in a process of its own, which leads its own process group and has one thread."""

    def __init__(self, function: Callable[..., object], *arguments: object):
        self._reader, writer = os.pipe()
        self._process = _processes.Process(target=_run, args=(writer, function, arguments))
        self._process.start()
        os.close(writer)
        self.pid = self._process.pid
        atexit.register(self._process.kill)  # multiprocessing would wait for it at the end, if a test has failed

    def is_running(self) -> bool:
        return self._process.is_alive()

    def kill(self) -> None:
        self._process.kill()

    def finish(self) -> tuple[int, str]:
        """Waits for the end, and returns the exit status (negative for a signal) and all output."""
        with open(self._reader, errors="replace") as output:
            said = output.read()
        self._process.join()
        return self._process.exitcode, said


def _run(writer: int, function: Callable[..., object], arguments: tuple) -> None:
    os.setsid()
    for number in (1, 2):
        os.dup2(writer, number)
    os.close(writer)
    sys.stdout, sys.stderr = (open(number, "w", buffering=1, closefd=False) for number in (1, 2))  # noqa: SIM115
    random.seed()  # a new process has other random numbers than its parent, too
    np.random.seed()
    torch.set_num_threads(1)  # the threads of a pool do not survive a fork
    forkserver._forkserver.__init__()  # a server that the parent has started refuses its children
    function(*arguments)


def command(*words: object) -> None:
    """Runs `stgt` with these arguments in this process, which ends with it."""
    sys.argv = ["stgt", *map(str, words)]
    main()
