"""Work for a Ray cluster that is quick to import: numbers are read and doubled, and some of them do harm."""

import multiprocessing
import os
import signal
import time

import numpy as np

from stgt.data.errors import VideoError

ENDLESS, CRASH, NO_VIDEO, LOST = -1, -2, -3, -4
DIES_ONCE, DIES_ALWAYS = 2, 7


def numbers(unit):
    """The arrays of a unit, unless it never ends, kills its process, is no video, or kills the process of Ray."""
    if unit == ENDLESS:
        time.sleep(3600)
    if unit == CRASH:
        os.kill(os.getpid(), signal.SIGKILL)
    if unit == NO_VIDEO:
        raise VideoError("no video")
    if unit == LOST:
        os.kill(multiprocessing.parent_process().pid, signal.SIGKILL)
        time.sleep(3600)
    return (np.array([unit, unit + 1.0]),)


class Doubled:
    """A model that is killed by two numbers, by one of them the first time only. It notes each death in a file."""

    def __init__(self, deaths):
        self.deaths = deaths

    def __call__(self, values):
        died = self.deaths.read_text()
        number = int(values[0])
        if number == DIES_ALWAYS or (number == DIES_ONCE and str(number) not in died):
            self.deaths.write_text(died + str(number))
            os.kill(os.getpid(), signal.SIGKILL)
        return 2 * values


class Unfit:
    """A model that no other process can load."""

    def __call__(self, values):
        return values

    def __reduce__(self):
        return _load, ()


def _load():
    raise MemoryError("the GPU is full")


def refuse(values):
    raise ValueError("the vectors are not finite")
