"""Images as clips of one frame: decoded, replaced by each other, and trained on beside videos."""

import json

import numpy as np
import pytest
import torch
from clips import grey, write_video
from PIL import Image

from stgt.config import DataConfig, OptimConfig, TrainConfig
from stgt.data.check import check_videos
from stgt.data.datasets import RetrievalDataset
from stgt.data.text import Tokenizer
from stgt.data.transforms import test_transform
from stgt.data.video import VideoError, decode_through, read_frames
from stgt.recipes import quickstart
from stgt.training.log import read_log
from stgt.training.run import train


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
    assert decode_through(path) == 1


def test_a_file_without_an_ending_is_what_is_in_it(root, tmp_path):
    (tmp_path / "clip").symlink_to(root / "1.mp4")
    assert len(read_frames(tmp_path / "clip", None)) == decode_through(tmp_path / "clip") == 6
    (tmp_path / "notes").write_text("no picture")
    with pytest.raises(VideoError, match="notes: not a video file"):
        read_frames(tmp_path / "notes", 8)


def test_broken_images_are_named(root):
    names = ["broken.jpg", "broken.png", "1.jpg", "gone.jpg"]
    verdicts = dict(check_videos([root / name for name in names]))
    assert [cause and cause.split(":")[0] for cause in verdicts.values()] == [
        "broken image",
        "broken image",
        None,
        "no such file",
    ]
    with pytest.raises(VideoError, match="broken.jpg: broken image: "):
        read_frames(root / "broken.jpg", 8)


def make(root, tmp_path, names, train=True, **options):
    path = tmp_path / "pairs.json"
    path.write_text(json.dumps([{"video": name, "caption": f"clip {name}"} for name in names]))
    options = (
        dict(frames=4, transform=test_transform(16), tokenizer=Tokenizer.train(["clip 0 . mp4 jpg"], 60)) | options
    )
    return RetrievalDataset(path, root, train=train, **options)


@pytest.mark.parametrize("cache", [False, True])
def test_items_have_the_frames_of_their_kind(root, tmp_path, cache):
    items = make(root, tmp_path, ["0.mp4", "1.jpg"], cache=cache)
    assert [len(items[i]["video"]) for i in range(2)] == [4, 1]
    assert items.images.tolist() == [False, True]


def test_an_image_takes_a_broken_images_place(root, tmp_path):
    items = make(root, tmp_path, [*(f"{n}.mp4" for n in range(6)), "broken.jpg", "1.jpg"], max_replacements=100)
    for seed in range(5):
        torch.manual_seed(seed)
        item = items[6]
        assert item["path"].endswith("1.jpg") and item["replaced"] >= 1


def test_a_test_set_of_both_is_refused(root, tmp_path):
    with pytest.raises(ValueError, match="pairs.json: 1.jpg is an image, 0.mp4 a video, expected one kind"):
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
    # 64 patches: those of an image have edges to their own frame alone.
    edges = [record["edges_per_token"] for record in records]
    assert len(records) == 8 and sum(value > 64 for value in edges) == 4 and sum(value <= 64 for value in edges) == 4
