"""Animated PNG files show the frames that the specification describes."""

import numpy as np
import pytest
from helpers.pictures import write_apng
from PIL import Image

from stgt.data.errors import VideoError
from stgt.data.images import holds_still, read_image
from stgt.data.video import read_frames

SIZE = (16, 12)
NONE, BACKGROUND, PREVIOUS = range(3)
SOURCE, OVER = range(2)


def shown(frames, rgba):
    """float (T, H, W, 3): the specification in NumPy, with colours and alpha from 0 to 1."""
    canvas, pages = np.zeros((SIZE[1], SIZE[0], 4)), []
    for image, left, upper, disposal, blend, _ in frames:
        new = rgba(image) / 255
        box = np.s_[upper : upper + new.shape[0], left : left + new.shape[1]]
        before, old = canvas.copy(), canvas[box]
        if blend == OVER:
            alpha = new[..., 3:] + old[..., 3:] * (1 - new[..., 3:])
            colour = new[..., :3] * new[..., 3:] + old[..., :3] * old[..., 3:] * (1 - new[..., 3:])
            new = np.concatenate([colour / np.maximum(alpha, 1e-9), alpha], axis=-1)
        canvas[box] = new
        pages.append(canvas[..., :3] * canvas[..., 3:] + 1 - canvas[..., 3:])
        if disposal == BACKGROUND:
            canvas[box] = 0
        elif disposal == PREVIOUS:
            canvas = before
    return 255 * np.stack(pages)


def pictures(mode, count):
    """Random pictures: one of the canvas's size, and smaller ones."""
    rng = np.random.default_rng(0)
    for number in range(count):
        width, height = SIZE if number == 0 else (7, 5)
        if mode == "I;16":
            yield Image.fromarray(rng.integers(0, 65536, (height, width), dtype=np.uint16))
            continue
        noise = rng.integers(0, 256, (height, width, 4), dtype=np.uint8)
        if mode == "P":
            image = Image.fromarray(noise[..., 0])
            image.putpalette(np.random.default_rng(1).integers(0, 256, 768, dtype=np.uint8).tobytes())
            yield image
        else:
            yield Image.fromarray(noise) if mode == "RGBA" else Image.fromarray(noise).convert("RGB").convert(mode)


@pytest.mark.parametrize("hidden", [False, True])
@pytest.mark.parametrize("blend", [SOURCE, OVER])
@pytest.mark.parametrize("disposal", [NONE, BACKGROUND, PREVIOUS])
@pytest.mark.parametrize("mode", ["RGBA", "RGB", "L", "P", "1", "I;16"])
def test_frames_are_drawn_kept_and_erased_as_specified(tmp_path, mode, disposal, blend, hidden):
    first, *others, default = pictures(mode, 6)
    frames = [(first, 0, 0, disposal, blend, 50)]
    frames += [(image, 2 * k, k, disposal, blend, 100 * k) for k, image in enumerate(others)]
    options = {"transparency": bytes(range(256))} if mode == "P" else {}
    default = first.copy() if hidden else None
    path = write_apng(tmp_path / "a.png", frames, default, **options)

    def rgba(image):
        if mode == "I;16":
            return np.dstack([np.asarray(image) / 257] * 3 + [np.full(image.size[::-1], 255)])
        image = image.copy()
        image.info.update(options)
        return np.asarray(image.convert("RGBA"), dtype=float)

    found, times = read_image(path, max_pixels=SIZE[0] * SIZE[1])
    # Each of the five frames rounds to whole levels twice, in colour and in alpha, by up to half a level.
    assert found.shape == (5, SIZE[1], SIZE[0], 3)
    assert np.abs(found.numpy() - shown(frames, rgba)).max() <= 5
    assert times.tolist() == pytest.approx([0, 0.05, 0.15, 0.25, 0.45])  # 0 ms are shown for 100 ms
    assert not holds_still(path)


def test_an_animation_of_one_frame_is_a_still_image(tmp_path):
    red, blue = Image.new("RGB", SIZE, "red"), Image.new("RGB", SIZE, "blue")
    path = write_apng(tmp_path / "a.png", [(red, 0, 0, NONE, SOURCE, 50)], default=blue)
    assert holds_still(path)
    found, times = read_image(path, max_pixels=1000)
    assert found[0, 0].tolist() == [[255, 0, 0]] * SIZE[0] and times.tolist() == [0]


@pytest.mark.parametrize(
    "options, place, message",
    [
        ({"promised": 4}, (0, 0), "the file promises 4 frames and holds 2"),
        ({}, (10, 0), "a frame of 16 × 12 pixels at 10, 0 leaves the canvas"),
    ],
)
def test_animations_that_contradict_themselves_are_refused(tmp_path, options, place, message):
    red = Image.new("RGB", SIZE, "red")
    frames = [(red, 0, 0, NONE, SOURCE, 50), (red, *place, NONE, SOURCE, 50)]
    with pytest.raises(VideoError, match=f"a.png: broken image: {message}"):
        read_image(write_apng(tmp_path / "a.png", frames, **options), max_pixels=1000)


def test_an_animation_that_takes_too_long_is_given_up(tmp_path):
    red = Image.new("RGB", SIZE, "red")
    path = write_apng(tmp_path / "a.png", [(red, 0, 0, NONE, SOURCE, 50)] * 3)
    with pytest.raises(VideoError, match=r"a.png: decoding did not end within 1e-09 s, the deadline for one file"):
        read_frames(path, 2, deadline=1e-9)
    assert len(read_frames(path, 2, deadline=None)) == 2
