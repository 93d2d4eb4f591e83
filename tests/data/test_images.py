"""Images are decoded as viewers show them, replace each other, and are trained on together with videos."""

import json
import os
import shutil
import socket
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.clips import grey, write_video
from helpers.pictures import on_white, write_apng, write_bmp, write_png
from PIL import Image, PngImagePlugin

from stgt.config import DataConfig, OptimConfig, TrainConfig
from stgt.data.images import holds_image, holds_still, read_image
from stgt.data.samples import RetrievalDataset
from stgt.data.text import Tokenizer
from stgt.data.transforms import eval_transform
from stgt.data.video import VideoError, read_frames
from stgt.recipes import quickstart
from stgt.training.log import read_log
from stgt.training.run import train

CLIPS = Path(__file__).parents[1] / "assets" / "clips"


def picture(path, colour=(200, 20, 20), mode="RGB"):
    Image.new("RGB", (40, 24), colour).convert(mode).save(path, "PNG" if not path.suffix else None)
    return path


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mixed")
    for number in range(6):
        write_video(folder / f"{number}.mp4", [frame + number for frame in grey(6)])
        picture(folder / f"{number}.jpg", (40 * number, 0, 0))
    (folder / "broken.jpg").write_bytes((folder / "1.jpg").read_bytes()[:300])
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(99))
    return folder


@pytest.mark.parametrize(
    "name, mode", [("a.jpg", "RGB"), ("b.PNG", "P"), ("c.webp", "RGB"), ("d", "LA"), ("e.png", "L")]
)
def test_an_image_is_one_frame_whatever_its_format(tmp_path, name, mode):
    path = picture(tmp_path / name, mode=mode)
    for frames in (8, 1, None):
        video = read_frames(path, frames, "headtail", torch.Generator())
        assert video.shape == (1, 24, 40, 3) and video.dtype == torch.uint8
    expected = np.array(Image.new("RGB", (1, 1), (200, 20, 20)).convert(mode).convert("RGB"))
    assert np.abs(video[0, 10, 10].numpy().astype(int) - expected[0, 0]).max() < 8


def test_the_content_decides_what_a_file_without_an_ending_is(root, tmp_path):
    (tmp_path / "clip").symlink_to(root / "1.mp4")
    assert len(read_frames(tmp_path / "clip", None)) == 6
    (tmp_path / "notes").write_text("no picture")
    with pytest.raises(VideoError, match="notes: not a video file"):
        read_frames(tmp_path / "notes", 8)


def test_broken_images_are_named(root):
    for name, cause in [
        ("broken.jpg", "broken image: "),
        ("broken.png", "broken image: "),
        ("gone.jpg", "no such file"),
    ]:
        with pytest.raises(VideoError, match=f"{name}: {cause}"):
            read_frames(root / name, 8)


def make(root, tmp_path, names, train=True, **options):
    path = tmp_path / "pairs.json"
    path.write_text(json.dumps([{"video": name, "caption": f"clip {name}"} for name in names]))
    options = (
        dict(frames=4, transform=eval_transform(16), tokenizer=Tokenizer.train(["clip 0 . mp4 jpg"], 60)) | options
    )
    return RetrievalDataset(path, root, train=train, **options)


@pytest.mark.parametrize("cache", [False, True])
def test_items_have_the_frames_of_their_kind(root, tmp_path, cache):
    items = make(root, tmp_path, ["0.mp4", "1.jpg"], cache=cache)
    assert [len(items[i]["video"]) for i in range(2)] == [4, 1]
    assert items.images.tolist() == [False, True]


@pytest.mark.parametrize("cache", [False, True])
def test_the_content_of_a_file_decides_how_many_frames_an_item_has(root, tmp_path, cache):
    shades = [Image.new("RGB", (40, 24), (60 * k, 0, 0)) for k in range(3)]
    still, moving = [(shade, 0, 0, 0, 0, 100) for shade in shades[:1]], [(shade, 0, 0, 0, 0, 100) for shade in shades]
    write_apng(tmp_path / "moving.png", moving)
    write_apng(tmp_path / "still.png", still)
    shades[0].save(tmp_path / "moving.webp", save_all=True, append_images=shades[1:], duration=100, lossless=True)
    shades[0].save(tmp_path / "still.webp")
    shutil.copy(tmp_path / "moving.webp", tmp_path / "moving")
    shutil.copy(tmp_path / "still.webp", tmp_path / "still")
    shutil.copy(root / "0.jpg", tmp_path / "still.mp4")
    shutil.copy(root / "0.mp4", tmp_path / "moving.jpg")
    names = ["moving.png", "moving.webp", "moving", "still.mp4", "still.png", "still.webp", "still", "moving.jpg"]
    items = make(tmp_path, tmp_path, names, cache=cache)
    assert items.images.tolist() == [False] * 4 + [True] * 4
    assert [len(items[i]["video"]) for i in range(7)] == [4] * 4 + [1] * 3
    assert (items[0]["video"] == items[1]["video"]).all() and (items[0]["video"] == items[2]["video"]).all()
    assert (items[0]["video"][:2] != items[0]["video"][1:3]).any((1, 2, 3)).all()
    items.max_replacements = 0
    with pytest.raises(VideoError, match="moving.jpg: holds a video, expected an image, as the file's ending says"):
        items[7]


@pytest.mark.parametrize("name", ["moving.png", "moving.webp", "0.mp4"])
@pytest.mark.parametrize("sampling", ["uniform", "headtail"])
def test_kept_frames_are_the_frames_that_are_read(root, tmp_path, name, sampling):
    shutil.copy(root / "0.mp4", tmp_path)
    shades = [Image.new("RGB", (40, 24), (10 * k, 0, 0)) for k in range(11)]
    write_apng(tmp_path / "moving.png", [(shade, 0, 0, 0, 0, 100) for shade in shades])
    shades[0].save(tmp_path / "moving.webp", save_all=True, append_images=shades[1:], duration=100, lossless=True)
    found = []
    for cache in (False, True):
        torch.manual_seed(3)
        found.append(make(tmp_path, tmp_path, [name], cache=cache, sampling=sampling)[0]["video"])
    assert (found[0] == found[1]).all()


def test_an_image_takes_a_broken_images_place(root, tmp_path):
    items = make(root, tmp_path, [*(f"{n}.mp4" for n in range(6)), "broken.jpg", "1.jpg"], max_replacements=100)
    for seed in range(5):
        torch.manual_seed(seed)
        item = items[6]
        assert item["path"].endswith("1.jpg") and item["replaced"] >= 1


def test_a_test_set_of_images_and_videos_is_refused(root, tmp_path):
    with pytest.raises(ValueError, match="pairs.json: 1.jpg is an image and 0.mp4 is a video, expected all"):
        make(root, tmp_path, ["0.mp4", "1.jpg"], train=False)
    assert make(root, tmp_path, ["0.jpg", "1.jpg"], train=False)[1]["video"].shape == (1, 3, 16, 16)


def test_a_run_learns_from_videos_and_images(root, tmp_path):
    names = [f"{n}.{ending}" for n in range(6) for ending in ("mp4", "jpg")]
    make(root, tmp_path, names)
    base = quickstart()
    config = TrainConfig(
        model=base.model,
        data=DataConfig(
            tmp_path / "pairs.json", videos=root,
            tokenizer="train", tokenizer_size=60, frames=3, workers=0,
        ),
        optim=OptimConfig(lr=1e-3, warmup_steps=1),
        out=tmp_path / "run",
        epochs=2,
        batch_size=3,
        precision="fp32",
        device="cpu",
        log_every=1,
    )  # fmt: skip
    train(config)
    records = read_log(tmp_path / "run")
    # An image has 64 patches, which have edges only to patches of the same frame.
    edges = [record["edges_per_token"] for record in records]
    assert len(records) == 8 and sum(value > 64 for value in edges) == 4 and sum(value <= 64 for value in edges) == 4


def read(path, **options):
    return read_image(path, **({"max_pixels": 10**6} | options))


def only_frame(path):
    frames, times = read(path)
    assert frames.dtype == torch.uint8 and times.dtype == torch.float64 and times.tolist() == [0]
    return frames[0].numpy().astype(int)


def test_a_photo_that_was_taken_upright_is_read_upright():
    photo = only_frame(CLIPS / "phone.jpg")
    assert photo.shape == (200, 100, 3)
    assert photo[:100].mean((0, 1)).argmax() == 0 and photo[0, 0, 0] > 200  # red is on top


@pytest.mark.parametrize("ending", ["jpg", "png", "webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_of_exif_is_applied(tmp_path, ending, orientation):
    corners = np.zeros((32, 48, 3), np.uint8)
    corners[:16, :24], corners[:16, 24:], corners[16:, :24] = (255, 0, 0), (0, 255, 0), (0, 0, 255)
    upright = {  # The tag is defined by the edges at which the first row and the first column are shown.
        1: corners, 2: corners[:, ::-1], 3: corners[::-1, ::-1], 4: corners[::-1], 5: corners.swapaxes(0, 1),
        6: corners.swapaxes(0, 1)[:, ::-1], 7: corners.swapaxes(0, 1)[::-1, ::-1], 8: corners.swapaxes(0, 1)[::-1],
    }  # fmt: skip
    exif = Image.Exif()
    exif[0x112] = orientation
    Image.fromarray(corners).save(tmp_path / f"a.{ending}", exif=exif, quality=100)
    found = only_frame(tmp_path / f"a.{ending}")
    # Away from the borders between the colours, which JPEG and WebP blur.
    places = np.ix_([4, -5], [4, -5])
    assert np.abs(found[places] - upright[orientation][places]).max() <= 4


def test_broken_exif_data_does_not_turn_an_image(tmp_path):
    Image.new("RGB", (40, 24), "red").save(tmp_path / "a.jpg", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    assert only_frame(tmp_path / "a.jpg").shape == (24, 40, 3)


def test_sixteen_bits_of_grey_become_eight(tmp_path):
    ramp = only_frame(CLIPS / "deep.png")
    assert ramp[:, :64].mean() == pytest.approx(32, abs=1) and ramp[:, -64:].mean() == pytest.approx(223, abs=1)
    values = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    Image.fromarray(values).save(tmp_path / "all.png")
    assert np.abs(only_frame(tmp_path / "all.png")[..., 1] - values / 257).max() <= 0.5


def samples(*values):
    return struct.pack(f">{len(values)}H", *values)


@pytest.mark.parametrize(
    "size, depth, colour_type, row, transparent, expected",
    [
        ((8, 1), 1, 0, b"\x1b", samples(1), [0, 0, 0, 255, 255, 0, 255, 255]),
        ((8, 1), 1, 0, b"\x1b", samples(0), [255] * 8),
        ((4, 1), 2, 0, b"\x1b", samples(1), [0, 255, 170, 255]),
        ((4, 1), 4, 0, b"\x01\x23", samples(2), [0, 17, 255, 51]),
        ((3, 1), 8, 0, b"\x05\x06\x07", samples(6), [5, 255, 7]),
        ((3, 1), 16, 0, samples(0x1234, 0x1235, 0xFF00), samples(0x1234), [255, 18, 254]),
        ((2, 1), 8, 2, b"\x01\x02\x03\x04\x05\x06", samples(1, 2, 3), [[255, 255, 255], [4, 5, 6]]),
        (
            (3, 1), 16, 2, samples(0x1234, 0x5678, 0x9ABC, 0x1235, 0x5678, 0x9ABC, 0, 0, 0xFFFF),
            samples(0x1234, 0x5678, 0x9ABC), [[255, 255, 255], [18, 86, 154], [0, 0, 255]],
        ),
        ((2, 1), 16, 4, samples(0, 0xFFFF, 0, 0), b"", [0, 255]),
        ((2, 1), 16, 6, samples(0, 0, 0, 0xFFFF, 9, 9, 9, 0), b"", [0, 255]),
    ],
)  # fmt: skip
def test_transparent_pixels_of_png_are_white(tmp_path, size, depth, colour_type, row, transparent, expected):
    found = only_frame(write_png(tmp_path / "a.png", size, depth, colour_type, [row], transparent))[0]
    expected = np.array(expected)
    assert found.tolist() == (expected if expected.ndim == 2 else expected[:, None].repeat(3, 1)).tolist()


def test_a_drawing_on_transparent_ground_is_black_on_white():
    logo = only_frame(CLIPS / "logo.png")
    assert logo[0, 0].tolist() == [255, 255, 255] and logo.min() == 0


@pytest.mark.parametrize("ending", ["png", "webp", "bmp"])
def test_half_transparent_pixels_are_mixed_with_white(tmp_path, ending):
    rgba = np.random.default_rng(0).integers(0, 256, (24, 40, 4), dtype=np.uint8)
    path = tmp_path / f"a.{ending}"
    if ending == "bmp":
        write_bmp(path, rgba)
    else:
        Image.fromarray(rgba).save(path, **({"lossless": True, "exact": True} if ending == "webp" else {}))
    alpha = rgba[..., 3:] / 255
    assert np.abs(only_frame(path) - (rgba[..., :3] * alpha + 255 * (1 - alpha))).max() <= 1


def test_the_alpha_of_a_bitmap_counts_only_where_it_is_used(tmp_path):
    rgba = np.full((4, 4, 4), 90, np.uint8)
    rgba[..., 3] = 0
    assert (only_frame(write_bmp(tmp_path / "a.bmp", rgba)) == 90).all()


@pytest.mark.parametrize("mode", ["1", "L", "P"])
@pytest.mark.parametrize("ending", ["png", "bmp"])
def test_palettes_and_greys_keep_their_colours(tmp_path, mode, ending):
    image = Image.linear_gradient("L").resize((40, 24)).convert("RGB").convert(mode)
    image.save(tmp_path / f"a.{ending}")
    assert (only_frame(tmp_path / f"a.{ending}") == np.asarray(image.convert("RGB"))).all()


def test_the_inks_of_a_jpeg_become_colours(tmp_path):
    inks = Image.new("CMYK", (16, 16), (255, 0, 0, 0))  # cyan
    inks.save(tmp_path / "adobe.jpg", quality=100)  # Pillow writes inverted inks and Adobe's marker, as others do
    data = (tmp_path / "adobe.jpg").read_bytes()
    marker = data.index(b"\xff\xee\0\x0eAdobe")
    (tmp_path / "plain.jpg").write_bytes(data[:marker] + data[marker + 16 :])
    assert np.abs(only_frame(tmp_path / "adobe.jpg") - [0, 255, 255]).max() <= 2
    # Viewers assume inverted inks, with or without the marker.
    assert np.abs(only_frame(tmp_path / "plain.jpg") - [0, 255, 255]).max() <= 2


@pytest.mark.parametrize("options", [{}, {"lossless": True, "background": (255, 0, 0, 255)}])
def test_an_animated_webp_has_its_frames_and_their_times(tmp_path, options):
    grounds = [Image.new("RGBA", (32, 32), (90, 90, 90, 40 * k)) for k in range(5)]
    grounds[0].save(
        tmp_path / "a.webp", save_all=True, append_images=grounds[1:], duration=[40, 10, 250, 100, 100], **options
    )
    frames, times = read(tmp_path / "a.webp")
    assert times.tolist() == pytest.approx([0, 0.04, 0.14, 0.39, 0.49])
    expected = np.stack([np.asarray(on_white(ground)) for ground in grounds])
    assert np.abs(frames.numpy().astype(int) - expected).max() <= 4
    some, when = read(tmp_path / "a.webp", choose=lambda begins: np.flatnonzero(begins > 0.2))
    assert (some == frames[3:]).all() and when.tolist() == times[3:].tolist()
    assert not holds_still(tmp_path / "a.webp")


def test_the_second_picture_of_a_phones_jpeg_is_no_frame(tmp_path):
    red, blue = Image.new("RGB", (40, 24), "red"), Image.new("RGB", (40, 24), "blue")
    red.save(tmp_path / "a.jpg", "MPO", save_all=True, append_images=[blue])
    assert only_frame(tmp_path / "a.jpg")[0, 0, 0] > 250


def test_the_first_bytes_tell_what_a_file_holds(tmp_path, root):
    for ending in ("jpg", "png", "webp", "bmp"):
        picture(tmp_path / f"a.{ending}").rename(tmp_path / f"{ending}.mp4")
        assert holds_image(tmp_path / f"{ending}.mp4") and holds_still(tmp_path / f"{ending}.mp4")
    shutil.copy(root / "1.mp4", tmp_path / "video.jpg")
    (tmp_path / "drawing.jpg").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
    (tmp_path / "letter.bmp").write_text("BM starts this letter, which is no bitmap at all.")
    shutil.copy(CLIPS / "pil.gif", tmp_path / "gif.png")
    shutil.copy(root / "1.jpg", tmp_path / "stream.mjpeg")
    for name in ("video.jpg", "drawing.jpg", "letter.bmp", "gif.png", "stream.mjpeg"):
        assert not holds_image(tmp_path / name) and not holds_still(tmp_path / name)
        with pytest.raises(VideoError, match=f"{name}: not an image, expected JPEG, PNG, WebP or BMP"):
            read(tmp_path / name)


def test_only_regular_files_are_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    server = socket.socket(socket.AF_UNIX)
    server.bind(os.path.relpath(tmp_path / "socket"))
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "loop.jpg").symlink_to(tmp_path / "loop.jpg")
    for path, cause in [
        (tmp_path / "pipe", "not a regular file"),
        (tmp_path / "socket", "not a regular file"),
        ("/dev/zero", "not a regular file"),
        (tmp_path / "folder.jpg", "there is a folder of this name"),
        (tmp_path / "empty.jpg", "the file is empty"),
        (tmp_path / "gone.jpg", "no such file"),
        (tmp_path / "loop.jpg", "Too many levels of symbolic links"),
        ("null\0.jpg", "null"),
    ]:
        for function in (holds_image, holds_still, read):
            with pytest.raises(VideoError, match=cause):
                function(path)
    server.close()


@pytest.mark.parametrize("ending", ["jpg", "png", "webp", "bmp"])
def test_an_image_of_unreasonable_size_is_refused_before_it_is_decoded(tmp_path, ending):
    path = tmp_path / f"a.{ending}"
    Image.new("L", (200, 100)).convert("RGB").save(path)
    assert len(read(path, max_pixels=20_000)[0]) == 1
    data = path.read_bytes()
    path.write_bytes(data if ending == "webp" else data[: len(data) * 9 // 10])  # decoding would find it cut short
    with pytest.raises(VideoError, match=r"200 × 100 pixels, expected at most 19999 in all; a larger max_pixels"):
        read(path, max_pixels=19_999)


def test_a_limit_above_pillows_own_is_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    for ending in ("jpg", "png", "bmp"):
        assert len(read(picture(tmp_path / f"a.{ending}"))[0]) == 1


def writers(folder):
    """Files of each format, made by various writers."""
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (24, 40, 3), dtype=np.uint8))
    exif, text = Image.Exif(), PngImagePlugin.PngInfo()
    exif[0x112] = 6
    text.add_text("comment", "grey " * 99, zip=True)
    image.save(folder / "a.jpg", exif=exif)
    image.save(folder / "b.jpg", progressive=True)
    image.convert("RGBA").save(folder / "c.png", exif=exif, pnginfo=text)
    image.convert("P").save(folder / "d.png", transparency=3)
    image.save(folder / "e.webp", save_all=True, append_images=[image.rotate(90)], exif=exif)
    image.save(folder / "f.bmp")
    write_apng(folder / "g.png", [(image, 0, 0, 0, 0, 100), (image.crop((0, 0, 9, 9)), 3, 3, 1, 1, 100)])
    return sorted(folder.iterdir())


def test_every_fault_of_an_image_is_an_error_of_that_image(tmp_path):
    rng = np.random.default_rng(0)
    refused = 0
    for path in writers(tmp_path):
        whole = path.read_bytes()
        for number in range(60):
            damaged = bytearray(whole)
            places = rng.integers(12, 200, 1 + number % 4) if number % 2 else rng.integers(12, len(whole), 20)
            for place in places:
                damaged[place % len(whole)] = rng.integers(256)
            path.write_bytes(damaged[: rng.integers(12, len(whole))] if number % 3 == 0 else damaged)
            try:
                frames, times = read(path)
            except VideoError as error:
                assert str(error).startswith(f"{path}: ") and "\n" not in str(error)
                refused += 1
            else:
                assert frames.dtype == torch.uint8 and frames.shape[3] == 3 and len(frames) == len(times)
    assert refused > 100
