"""Fixtures of the whole suite: steady threads and steady randomness, which the environment can set to other values.

STGT_TEST_SEED (0) moves every seed of the tests, so that their inputs are others. STGT_TEST_THREADS (1) is the number
of threads wherever a test does not choose its own.
"""

import os
import signal
from collections.abc import Callable, Iterator

import pytest

# OpenMP reads this when torch is loaded. Threads that spin while they wait starve each other on a busy machine.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch  # noqa: E402

# A suite that runs in the background or under nohup ignores these signals, and so would the commands that it starts.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

SEED = int(os.environ.get("STGT_TEST_SEED", "0"))
# Most tensors here are tiny: two threads would spend their time waiting for each other.
THREADS = int(os.environ.get("STGT_TEST_THREADS", "1"))


def move_seeds(by: int) -> None:
    """Adds a number to every seed that PyTorch is given in this process, be it by a test or by what it tests."""
    seed_all = torch.manual_seed

    class Generator(torch.Generator):
        def manual_seed(self, seed: int) -> torch.Generator:
            return super().manual_seed(seed + by)

    torch.manual_seed = lambda seed: seed_all(seed + by)
    torch.Generator = Generator


if SEED:
    move_seeds(SEED)


@pytest.fixture(scope="session", autouse=True)
def steady_threads() -> None:
    torch.set_num_threads(THREADS)


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    """Sets the number of threads for the rest of the test."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)
