"""Batches: each pair once an epoch, shared among processes, resumable from a number."""

import random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stgt.training.distributed import BatchSampler
from stgt.training.randomness import SeededItems, random_state, restore_random_state, seed_everything


@given(data=st.data(), batch=st.integers(1, 7), world=st.integers(1, 4))
def test_an_epoch_is_dealt_once_over_all_processes(data, batch, world):
    length = data.draw(st.integers(batch * world, 60))
    samplers = [BatchSampler(length, batch, seed=3, rank=r, world=world) for r in range(world)]
    for epoch in range(2):
        first = epoch * samplers[0].per_epoch
        dealt = [p for n in range(first, first + samplers[0].per_epoch) for s in samplers for p in s.batch(n)]
        assert {e for e, _ in dealt} == {epoch}
        indices = [i for _, i in dealt]
        assert len(set(indices)) == len(indices) == length // (batch * world) * batch * world


def test_the_order_does_not_depend_on_how_many_processes_share_it():
    one = BatchSampler(40, 8, seed=0)
    two = [BatchSampler(40, 4, seed=0, rank=r, world=2) for r in range(2)]
    assert [one.batch(n) for n in range(9)] == [two[0].batch(n) + two[1].batch(n) for n in range(9)]


def test_epochs_and_seeds_shuffle_differently_and_a_position_can_be_entered_directly():
    sampler = BatchSampler(64, 8, seed=0)
    run = list(sampler.batches(0, 24))
    assert [i for _, i in sum(run[:8], [])] != [i for _, i in sum(run[8:16], [])]
    assert run[:8] != list(BatchSampler(64, 8, seed=1).batches(0, 8))
    assert list(BatchSampler(64, 8, seed=0).batches(13, 24)) == run[13:]


def test_fewer_pairs_than_a_batch_are_refused():
    with pytest.raises(ValueError, match="has 7 pairs, expected at least one batch: 4 × 2"):
        BatchSampler(7, 4, seed=0, world=2)


class Noise:
    def __len__(self):
        return 4

    def __getitem__(self, index):
        return {"noise": (index, random.random(), np.random.rand(), torch.rand(()).item())}


def draws():
    return random.random(), random.gauss(0, 1), np.random.randn(), torch.rand(3).tolist()


def test_items_depend_on_their_place_alone_and_leave_the_generators_alone():
    items = SeededItems(Noise(), seed=5)
    seed_everything(1)
    expected = draws()
    seed_everything(1)
    first = items[0, 2]
    assert draws() == expected
    assert items[0, 2] == first
    assert len({items[e, i]["noise"][1:] for e in range(3) for i in range(4)}) == 12
    assert SeededItems(Noise(), seed=6)[0, 2] != first


def test_states_go_through_tensors_and_back():
    seed_everything(7)
    random.gauss(0, 1), np.random.randn()  # both keep a second normal value in hand
    state = random_state()
    expected = draws()
    draws()
    restore_random_state(state)
    assert draws() == expected
