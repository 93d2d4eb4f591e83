"""Fixtures of the whole suite: steady threads and steady randomness."""

import os
from collections.abc import Callable, Iterator

import pytest

# OpenMP reads this when torch is loaded. Threads that spin while they wait starve each other on a busy machine.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch  # noqa: E402


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Most tensors here are tiny: two threads would spend their time waiting for each other. ``threads`` sets more."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    """Sets the number of threads for the rest of the test."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)
