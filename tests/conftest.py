"""Fixtures of the whole suite: steady threads and steady randomness."""

from collections.abc import Callable, Iterator

import pytest
import torch


@pytest.fixture(scope="session", autouse=True)
def two_threads() -> None:
    """The same number on every machine, and more than one, so that work is always divided."""
    torch.set_num_threads(2)


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    """Sets the number of threads for the rest of the test."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)
