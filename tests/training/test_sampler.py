"""Batches hold each pair once in an epoch, are shared by processes, and can be resumed from a number."""

import random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stgt.randomness import SeededItems, random_state, restore_random_state, seed_everything
from stgt.training.sampler import BatchSampler


@given(data=st.data(), batch=st.integers(1, 7), world=st.integers(1, 4))
def test_all_processes_together_see_each_pair_once_in_an_epoch(data, batch, world):
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


def test_epochs_and_seeds_shuffle_differently_and_any_batch_can_come_first():
    sampler = BatchSampler(64, 8, seed=0)
    run = list(sampler.batches(0, 24))
    assert [i for _, i in sum(run[:8], [])] != [i for _, i in sum(run[8:16], [])]
    assert run[:8] != list(BatchSampler(64, 8, seed=1).batches(0, 8))
    assert list(BatchSampler(64, 8, seed=0).batches(13, 24)) == run[13:]


def test_every_seed_of_a_configuration_shuffles():
    for seed in (0, 2**44, 2**62, 2**63 - 1):
        assert sorted(BatchSampler(64, 64, seed=seed).batch(1)) == [(1, index) for index in range(64)]


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


def test_items_depend_only_on_their_key_and_do_not_change_the_generators():
    items = SeededItems(Noise(), seed=5)
    seed_everything(1)
    expected = draws()
    seed_everything(1)
    first = items[0, 2]
    assert draws() == expected
    assert items[0, 2] == first
    noise = [items[e, i]["noise"][1:] for e in range(3) for i in range(4)]
    assert all(len({*drawn}) == 12 for drawn in zip(*noise, strict=True))  # of each of the three generators
    assert SeededItems(Noise(), seed=6)[0, 2] != first


def test_states_survive_as_tensors():
    seed_everything(7)
    random.gauss(0, 1), np.random.randn()  # both generators keep a second normal value for the next call
    state = random_state()
    expected = draws()
    draws()
    restore_random_state(state)
    assert draws() == expected


@given(data=st.data(), batch=st.integers(1, 5), world=st.integers(1, 3))
def test_a_batch_of_all_processes_holds_videos_or_images(data, batch, world):
    counts = [data.draw(st.integers(batch * world, 40)) for _ in range(2)]
    images = torch.tensor([kind for kind, count in enumerate(counts) for _ in range(count)], dtype=torch.bool)
    images = images[torch.randperm(len(images), generator=torch.Generator().manual_seed(batch))]
    samplers = [BatchSampler(len(images), batch, seed=3, rank=r, world=world, images=images) for r in range(world)]
    per_epoch = samplers[0].per_epoch
    assert per_epoch == sum(count // (batch * world) for count in counts)
    for epoch in range(2):
        batches = [sum((s.batch(epoch * per_epoch + n) for s in samplers), []) for n in range(per_epoch)]
        assert all(len({bool(images[i]) for _, i in dealt}) == 1 and len(dealt) == batch * world for dealt in batches)
        indices = [i for dealt in batches for _, i in dealt]
        assert len(set(indices)) == len(indices) and {e for dealt in batches for e, _ in dealt} == {epoch}


def test_both_kinds_take_turns_and_a_single_kind_is_shuffled_as_without_kinds():
    images = torch.arange(64) % 2 == 0
    sampler = BatchSampler(64, 4, seed=0, images=images)
    kinds = [bool(images[sampler.batch(n)[0][1]]) for n in range(16)]
    assert sum(kinds) == 8 and kinds not in (sorted(kinds), sorted(kinds, reverse=True))
    alone = BatchSampler(64, 4, seed=0, images=torch.ones(64, dtype=torch.bool))
    assert list(alone.batches(0, 16)) == list(BatchSampler(64, 4, seed=0).batches(0, 16))


def test_each_epoch_has_other_batches_of_a_kind():
    sampler = BatchSampler(64, 4, seed=0, images=torch.arange(64) % 2 == 0)
    one, other = ({frozenset(i for _, i in sampler.batch(16 * epoch + n)) for n in range(16)} for epoch in range(2))
    assert one != other


def test_too_few_of_one_kind_are_refused():
    with pytest.raises(ValueError, match="has 3 images, expected at least one batch: 4 × 1"):
        BatchSampler(20, 4, seed=0, images=torch.arange(20) < 3)


@pytest.mark.parametrize("images", [None, torch.arange(4000) % 3 == 0])
def test_an_epoch_takes_four_bytes_for_each_pair_and_has_the_order_of_torchs_permutation(images):
    sampler = BatchSampler(4000, 8, seed=2, images=images)
    sampler.batch(0)
    order = sampler._order[1]
    assert order.nbytes == 4 * len(order)
    if images is None:
        expected = torch.randperm(4000, generator=torch.Generator().manual_seed(2 * 1_000_003))
        assert torch.equal(order.long(), expected)
