import random

import numpy as np
import pytest
import torch

import stgt._torchvision  # noqa: F401  (before torchvision)
from stgt.data.augment import OPERATIONS
from stgt.data.transforms import CLIP_MEAN, CLIP_STD, RandAugment, describe, eval_transform, train_transform

from torchvision.transforms import v2  # isort: skip
from torchvision.transforms.v2 import functional  # isort: skip


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


class TorchvisionRandAugment:
    """RandAugment as it was written with torchvision's operations."""

    def __call__(self, video):
        def affine(video, angle=0.0, translate=(0, 0), shear=(0.0, 0.0)):
            bilinear, grey = v2.InterpolationMode.BILINEAR, [128.0]
            return functional.affine(video, angle, [*translate], 1.0, [*shear], interpolation=bilinear, fill=grey)

        operations = [
            lambda video, s: video,
            lambda video, s: functional.adjust_contrast(video, 1 + 0.9 * s),
            lambda video, s: functional.adjust_brightness(video, 1 + 0.9 * s),
            lambda video, s: functional.adjust_sharpness(video, 1 + 0.9 * s),
            lambda video, s: functional.equalize(video),
            lambda video, s: affine(video, shear=(torch.rad2deg(torch.tensor(0.3 * s)).item(), 0.0)),
            lambda video, s: affine(video, shear=(0.0, torch.rad2deg(torch.tensor(0.3 * s)).item())),
            lambda video, s: affine(video, translate=(round(0.1 * s * video.shape[-1]), 0)),
            lambda video, s: affine(video, translate=(0, round(0.1 * s * video.shape[-2]))),
            lambda video, s: affine(video, angle=30.0 * s),
        ]
        for number in torch.randint(len(operations), (2,)).tolist():
            sign = 1 if torch.rand(()) < 0.5 else -1
            video = operations[number](video, sign * 5 / 10)
        return video


BICUBIC = v2.InterpolationMode.BICUBIC
LAST = [v2.ToDtype(torch.float32, scale=True), v2.Normalize(CLIP_MEAN, CLIP_STD)]
CROP = v2.RandomResizedCrop(32, scale=(0.5, 1.0), interpolation=BICUBIC)


def described(transform):
    """The texts are those that `describe` wrote when the steps were torchvision's."""

    def text(step):
        shown = {name: value for name, value in vars(step).items() if not name.startswith("_") and name != "training"}
        return f"{type(step).__name__}({', '.join(f'{name}={value}' for name, value in sorted(shown.items()))})"

    return [text(step) for step in transform.transforms if not isinstance(step, TorchvisionRandAugment)]


@pytest.mark.parametrize(
    "ours, torchvisions",
    [
        (train_transform(32), v2.Compose([CROP, v2.RandomHorizontalFlip(), TorchvisionRandAugment(), *LAST])),
        (train_transform(32, flip=False), v2.Compose([CROP, TorchvisionRandAugment(), *LAST])),
        (eval_transform(32), v2.Compose([v2.Resize((32, 32), interpolation=BICUBIC), *LAST])),
        (eval_transform(32, crop=True), v2.Compose([v2.Resize([32], interpolation=BICUBIC), v2.CenterCrop(32), *LAST])),
    ],
    ids=["train", "train without flip", "evaluate", "evaluate with crop"],
)
def test_bits_and_description_are_torchvisions(picture, ours, torchvisions):
    steps = describe(ours).split(" | ")
    assert [step for step in steps if not step.startswith("RandAugment")] == described(torchvisions)
    wide, tall, long = picture, picture.transpose(1, 2), picture[:, :8].repeat(1, 1, 3)
    flat = torch.full((3, 40, 60), 7, dtype=torch.uint8)
    for frame in (wide, tall, long, flat, wide[:, :32, :32], wide[:, :2]):
        for frames in (1, 4):
            whole = torch.stack([frame.roll(shift, 2) for shift in range(frames)])
            for video in (whole, whole.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)):
                for seed in range(12):
                    got = seeded(ours, video, seed)
                    after = torch.random.get_rng_state()
                    assert torch.equal(got, seeded(torchvisions, video, seed))
                    assert torch.equal(after, torch.random.get_rng_state())
