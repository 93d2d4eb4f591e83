"""Work for a Ray cluster that is quick to import: numbers are read and doubled, and some of them do harm."""

import multiprocessing
import os
import signal
import time
from types import SimpleNamespace

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


class Killed(Unfit):
    """A model that kills each process that loads it."""

    def __reduce__(self):
        return _kill, ()


def _kill():
    os.kill(os.getpid(), signal.SIGKILL)


class Network:
    """A stand-in for a module on a GPU."""

    def __init__(self):
        self.device = SimpleNamespace(type="cuda")

    def parameters(self):
        yield self

    def to(self, device):
        self.device = SimpleNamespace(type=device) if isinstance(device, str) else device


class OnGpu:
    """A model that can be sent to a machine without a GPU only while its network is on the CPU."""

    def __init__(self):
        self.network = Network()

    def __call__(self, values):
        return 2 * values

    def __reduce__(self):
        assert self.network.device.type == "cpu"
        return Sent, ()


class Sent:
    """An `OnGpu` model that has arrived."""

    def __call__(self, values):
        return 2 * values


def refuse(values):
    raise ValueError("the vectors are not finite")
