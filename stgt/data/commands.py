"""What `stgt data …` does, as functions of plain arguments."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal

import tyro

from stgt.config import TrainConfig

Dataset = Literal[
    "msrvtt-1ka", "msrvtt-7k", "msrvtt-full", "msvd", "didemo", "lsmdc", "msrvtt-qa", "msvd-qa",
    "webvid", "cc3m", "vidal",
]  # fmt: skip


def shapes(
    out: Path = Path("data/shapes"),
    train: int = 3000,
    test: int = 100,
    seed: int = 0,
    size: int = 64,
    frames: int = 16,
) -> None:
    """Render simulated clips of moving shapes, with captions, questions and scene graphs.

    Args:
        out: Folder to write; one that holds the same clips already is left as it is.
        train: Clips to train on.
        test: Clips whose captions differ in meaning from each other and from all training captions.
        seed: Another seed, other clips.
        size: Pixels of a side.
        frames: Frames of a clip.
    """
    from stgt.data.shapes import render_shapes

    folder = render_shapes(out, train=train, test=test, seed=seed, size=size, frames=frames)
    print(f"{folder} holds {train} + {test} simulated clips, seed {seed}")


def convert(
    dataset: Annotated[Dataset, tyro.conf.Positional],
    source: Annotated[Path, tyro.conf.Positional],
    out: Path,
    videos: Path | None = None,
    hold_out: int = 0,
    any_size: bool = False,
) -> None:
    """Make annotations of a data set's own files: OUT/{train,val,test}.json, or qa_….json; a wrong size is an error.

    Args:
        dataset: msrvtt-1ka (9k to train on), msrvtt-7k, msrvtt-full, msvd, didemo (paragraphs), lsmdc, msrvtt-qa,
            msvd-qa, webvid, cc3m (images), vidal.
        source: Folder that its files were downloaded to, under the names they have there.
        out: Folder to write, e.g. data/msrvtt.
        videos: Folder of the videos or images, in any subfolders and containers: names are taken from there, and what
            is not there is left out.
        hold_out: How many training videos become the validation split, where there is none; the same ones, always.
        any_size: Take splits that are smaller or larger than published.
    """
    from stgt.data.benchmarks import convert

    convert(dataset, source, out, videos=videos, hold_out=hold_out, any_size=any_size)


def check(
    annotation: Path, videos: Path, timeout: float = 30.0, jobs: int | None = None, out: Path | None = None
) -> None:
    """Decode every video of an annotation once and name those that are broken, or keep the decoder busy for ever.

    Args:
        annotation: Retrieval annotation in JSON.
        videos: Folder that its names are relative to.
        timeout: Seconds that one video may take.
        jobs: Videos decoded at a time; as many as there are cores if not given.
        out: Write the annotation without the broken videos here.
    """
    from tqdm import tqdm

    from stgt.data.annotations import load_captions, save_captions
    from stgt.data.check import check_videos
    from stgt.data.video import VideoError

    clips = load_captions(annotation)
    paths = list(dict.fromkeys(str(videos / clip.video) for clip in clips))
    broken = {}
    for path, cause in tqdm(
        check_videos(paths, timeout=timeout, jobs=jobs or os.cpu_count() or 1), total=len(paths), unit="video"
    ):
        if cause is not None:
            broken[path] = cause
            tqdm.write(f"{path}: {cause}")
    print(f"{len(broken)} of {len(paths)} videos are broken")
    if out is not None:
        save_captions([clip for clip in clips if str(videos / clip.video) not in broken], out)
    elif broken:
        raise VideoError(f"{annotation} names {len(broken)} broken videos; --out writes it without them")


def features(recipe: TrainConfig, out: Path, views: int = 1, batch_size: int = 16, device: str = "auto") -> None:
    """Write the frozen tower's tokens of a recipe's training videos once; give the folder to it as --data.features.

    Args:
        recipe: The run that will read them: its tower, transform, frames and sampling.
        out: Folder to write; one that holds the same tokens already is left as it is.
        views: How often each video is read, with other augmentation and frames each time.
        batch_size: Videos that the tower sees at a time.
        device: "auto" is a GPU where there is one.
    """
    import torch

    from stgt.data.annotations import load_videos
    from stgt.data.datasets import VideoDataset
    from stgt.data.features import tower_hash, write_features
    from stgt.data.transforms import test_transform, train_transform
    from stgt.models.vision import VisionTower
    from stgt.training.randomness import seed_everything

    data, vision = recipe.data, recipe.model.vision
    if vision.open_blocks != 0:
        raise ValueError(f"vision.open_blocks is {vision.open_blocks}, expected 0: only a frozen tower can be cached")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    seed_everything(recipe.seed)  # as the run does, whose tower, if it is not pretrained, has these weights
    tower = VisionTower(vision)
    digest = tower_hash(tower.state_dict(), vision)
    tower = tower.to(device).eval()
    size = vision.image_size
    videos = VideoDataset(
        load_videos(data.train),
        data.videos,
        frames=data.frames,
        transform=train_transform(size, flip=data.flip) if data.augment else test_transform(size),
        sampling=data.sampling,
        random=True,
    )
    store = write_features(
        out, videos, tower, tower_hash=digest, views=views, seed=recipe.seed,
        batch_size=batch_size, workers=data.workers, device=device,
    )  # fmt: skip
    print(f"{out}: {len(videos)} videos × {store.views} views, tokens {store.shape[2:]}, bfloat16")
