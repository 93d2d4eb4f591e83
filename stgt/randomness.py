"""Randomness that can be saved and resumed: the states of all generators, and items that do not depend on them."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

import numpy as np
import torch


class Items(Protocol):
    def __getitem__(self, index: int) -> dict: ...
    def __len__(self) -> int: ...


def random_state() -> dict[str, torch.Tensor]:
    """States of the generators of Python, NumPy, torch and this process's GPU, as tensors of fixed shapes."""
    _, words, gauss = random.getstate()
    _, keys, position, has_gauss, cached = np.random.get_state()
    state = {
        "python": torch.tensor(words, dtype=torch.int64),
        "python_gauss": torch.tensor([0.0 if gauss is None else gauss, gauss is not None], dtype=torch.float64),
        "numpy": torch.from_numpy(np.append(keys.astype(np.int64), [position, has_gauss])),
        "numpy_gauss": torch.tensor([cached], dtype=torch.float64),
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def restore_random_state(state: dict[str, torch.Tensor]) -> None:
    """Restore the states that `random_state` returned. If the state has no GPU, the GPU's generator is not changed."""
    gauss, has_gauss = state["python_gauss"].tolist()
    random.setstate((3, tuple(state["python"].tolist()), gauss if has_gauss else None))
    *keys, position, numpy_has_gauss = state["numpy"].tolist()
    np.random.set_state(
        ("MT19937", np.array(keys, dtype=np.uint32), position, numpy_has_gauss, state["numpy_gauss"].item())
    )
    torch.set_rng_state(state["torch"])
    if torch.cuda.is_available() and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"])


def _seed_cpu(*seed: int) -> None:
    words = [int(word) for word in np.random.SeedSequence(seed).generate_state(3)]
    random.seed(words[0])
    np.random.seed(words[1])
    # torch.manual_seed would seed the GPUs too, but reading data must not change the dropout there.
    torch.default_generator.manual_seed(words[2])


def seed_everything(*seed: int) -> None:
    """Seed the generators of Python, NumPy, torch and every GPU from a few integers."""
    torch.manual_seed(int(np.random.SeedSequence(seed).generate_state(1)[0]))
    _seed_cpu(*seed)


@contextmanager
def seeded(*seed: int) -> Iterator[None]:
    """Run a block with the CPU generators seeded, and restore their states afterwards."""
    python, numpy, cpu = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        _seed_cpu(*seed)
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        torch.set_rng_state(cpu)


class SeededItems(torch.utils.data.Dataset):
    """A data set with keys (epoch, index), whose augmentation depends only on the key.

    The number of workers and the items that were read before do not change an item, so a resumed run sees the same
    items.
    """

    def __init__(self, items: Items, seed: int) -> None:
        self.items, self.seed = items, seed

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, place: tuple[int, int]) -> dict:
        epoch, index = place
        with seeded(self.seed, epoch, index):
            return self.items[index]
