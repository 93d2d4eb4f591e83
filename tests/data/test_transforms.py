import random

import numpy as np
import pytest
import torch

from stgt.data.transforms import CLIP_MEAN, CLIP_STD, OPERATIONS, RandAugment, describe, eval_transform, train_transform


@pytest.fixture
def picture():
    """A frame without any symmetry: uint8 (3, 40, 60)."""
    y, x = torch.meshgrid(torch.linspace(0, 1, 40), torch.linspace(0, 1, 60), indexing="ij")
    picture = torch.stack([x, 0.2 + 0.5 * y * x, (x - 0.3).abs()])
    picture[1:, 10:15, 20:30] = 0.9
    return (picture * 255).to(torch.uint8)


def seeded(transform, video, seed):
    torch.manual_seed(seed)
    return transform(video)


@pytest.mark.parametrize("frames", [1, 5])
def test_every_frame_gets_the_same_draw(picture, frames):
    transform = train_transform(32)
    outputs = [seeded(transform, picture.expand(frames, -1, -1, -1), seed) for seed in range(30)]
    for output in outputs:
        assert output.shape == (frames, 3, 32, 32) and output.dtype == torch.float32
        assert (output == output[0]).all()
    assert len({tuple(output[0].flatten().tolist()) for output in outputs}) == 30


def test_draws_come_from_torchs_generator_alone(picture):
    transform, video = train_transform(32), picture.expand(3, -1, -1, -1)
    before = random.getstate(), np.random.get_state()[1].tolist()
    for seed in range(20):
        assert torch.equal(seeded(transform, video, seed), seeded(transform, video, seed))
    assert before == (random.getstate(), np.random.get_state()[1].tolist())


def test_without_flip_left_stays_left(picture):
    """Red grows from left to right in the picture, and falls after a flip."""

    def flips(transform):
        reds = [seeded(transform, picture[None], seed)[0, 0] for seed in range(60)]
        return sum(bool(red[:, 24:].mean() < red[:, :8].mean()) for red in reds)

    assert flips(train_transform(32, flip=False)) == 0
    assert 15 < flips(train_transform(32)) < 45


@pytest.mark.parametrize("name", OPERATIONS)
def test_operations_keep_the_form_and_do_something(picture, name):
    video = picture.expand(2, -1, -1, -1)
    for strength in (0.5, -0.5):
        output = OPERATIONS[name](video, strength)
        assert output.shape == video.shape and output.dtype == torch.uint8
        assert torch.equal(output, video) == (name == "identity")


def test_rand_augment_draws_with_replacement_from_all_operations(picture):
    single = RandAugment(count=1)
    expected = {name: [OPERATIONS[name](picture[None], s) for s in (0.5, -0.5)] for name in OPERATIONS}
    seen = set()
    for seed in range(200):
        output = seeded(single, picture[None], seed)
        seen |= {name for name, both in expected.items() if any(torch.equal(output, one) for one in both)}
    assert seen == set(OPERATIONS)


def test_evaluation_squashes_to_a_square_and_normalises(picture):
    flat = torch.full((2, 3, 30, 90), 51, dtype=torch.uint8)
    expected = (0.2 - torch.tensor(CLIP_MEAN)) / torch.tensor(CLIP_STD)
    output = eval_transform(16)(flat)
    assert output.shape == (2, 3, 16, 16)
    torch.testing.assert_close(output, expected[None, :, None, None].expand_as(output))
    left, right = eval_transform(16)(picture[None])[0, 0][:, [0, -1]].mean(0)
    assert left < 0 < right  # nothing is cropped: both ends of the wide picture are there


def test_a_description_tells_transforms_apart():
    transforms = [train_transform(32), train_transform(32, flip=False), train_transform(64), eval_transform(32)]
    assert len({describe(transform) for transform in transforms}) == 4
    assert describe(train_transform(32)) == describe(train_transform(32))
    assert "0.5, 1.0" in describe(transforms[0])
