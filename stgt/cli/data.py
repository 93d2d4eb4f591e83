"""`stgt data …`: simulated clips, annotations, broken videos, feature caches."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from stgt.cli import train as recipes
from stgt.data.datasets import DATA_SETS
from stgt.terminal import say

if TYPE_CHECKING:
    Dataset = str
else:
    Dataset = Literal[tuple(DATA_SETS)]  # --help lists them


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
    say(f"{folder} holds {train} + {test} simulated clips, seed {seed}")


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
        dataset: Name of the data set; docs/data.md says which files and splits each one has.
        source: Folder that its files were downloaded to, under the names they have there.
        out: Folder to write, e.g. data/msrvtt.
        videos: Folder of the videos or images, in any subfolders and containers: names are taken from there, and what
            is not there is left out.
        hold_out: How many training videos become the validation split, where there is none; the same ones, always.
        any_size: Take splits that are smaller or larger than published.
    """
    from stgt.data.convert import convert

    convert(dataset, source, out, videos=videos, hold_out=hold_out, any_size=any_size)


def merge(
    annotations: Annotated[tuple[Path, ...], tyro.conf.Positional], out: Path, videos: Path = Path("data")
) -> None:
    """Join caption annotations to train on together, such as WebVid's and CC3M's: batches are of one kind.

    Args:
        annotations: Each with its videos or images in the folder `videos` beside it: data/webvid/train.json ….
        out: Annotation to write.
        videos: Folder that all of them are below, for --data.videos.
    """
    from stgt.data.merge import merge

    merge(annotations, out, videos)


def check(
    annotation: Annotated[Path, tyro.conf.Positional],
    videos: Path | None = None,
    out: Path | None = None,
    report: Path | None = None,
    decoder: Literal["auto", "pyav", "decord"] = "auto",
    max_pixels: int = 50_000_000,
    timeout: float = 30.0,
    jobs: int | None = None,
) -> None:
    """Decode every video of an annotation with each reader; list those that are not read right, and report on all.

    A video is read right if it can be decoded, if a frame that is read alone is the frame that decoding the whole video
    gives, and if that is the frame that players show. Training leaves the others out if it is given the list as
    --data.bad-list. An interrupted check goes on where it was.

    Args:
        annotation: Annotation in JSON, of captions or questions.
        videos: Folder that its names are relative to; the folder `videos` beside it if not given.
        out: JSON file of the list, {video: cause}; ANNOTATION.bad.json if not given.
        report: JSON file of what each video is and why a reader does not read it right; beside OUT, with
            .report.json for its ending, if not given.
        decoder: Training's --data.decoder; the list is of the videos that this reader does not read right.
        max_pixels: Videos and images whose frames have more pixels are refused, as training's --data.max-pixels does.
        timeout: Seconds that one reader may take for one video.
        jobs: Videos decoded at a time; as many as there are cores if not given.
    """
    from collections import Counter

    from stgt.data.annotations import load_videos
    from stgt.data.check import bad_cause, write_report

    names, videos = load_videos(annotation), videos or annotation.parent / "videos"
    if not videos.is_dir():
        raise ValueError(f"{videos}: no such folder, expected the videos of {annotation}: give it as --videos")
    out = out or annotation.with_suffix(".bad.json")
    report = report or out.with_name(f"{out.name.removesuffix('.json').removesuffix('.bad')}.report.json")
    entries = write_report(
        names, videos, report=report, bad_list=out, decoder=decoder, max_pixels=max_pixels, timeout=timeout,
        jobs=jobs or os.cpu_count() or 1,
    )  # fmt: skip
    bad = [cause for entry in entries.values() if (cause := bad_cause(entry, decoder)) is not None]
    for kind, count in Counter(cause.partition(":")[0] for cause in bad).most_common():
        say(f"{count:8}  {kind}")
    failures = Counter(name for entry in entries.values() for name, cause in entry["readers"].items() if cause)
    for name, count in sorted(failures.items()):
        say(f"{name} does not read {count} of {len(names)} right, {report} tells why")
    say(f"{len(bad)} of {len(names)} videos are broken, listed in {out}")


def features(recipe: recipes.Recipe, out: Path, views: int = 1, batch_size: int = 16, device: str = "auto") -> None:
    """Write the frozen tower's tokens of a recipe's videos once; give the folder to it as --data.features.

    These are the videos to train and to validate on, the latter with the same transform.

    Args:
        recipe: The run that will read them: its tower, transform, frames and sampling.
        out: Folder to write; one that holds the same tokens already is left as it is.
        views: How often each video is read, with other augmentation and frames each time.
        batch_size: Videos that the tower sees at a time.
        device: "auto" is a GPU where there is one.
    """
    import torch

    from stgt.data.annotations import load_bad_list, load_videos
    from stgt.data.samples import VideoDataset
    from stgt.data.transforms import eval_transform, train_transform
    from stgt.data.write_features import write_features
    from stgt.models.vision import VisionTower
    from stgt.randomness import seed_everything
    from stgt.weights.tower import tower_hash

    data, vision = recipe.data, recipe.model.vision
    if vision.open_blocks != 0:
        raise ValueError(f"vision.open_blocks is {vision.open_blocks}, expected 0: only a frozen tower can be cached")
    names = [video for path in (data.train, data.val) if path is not None for video in load_videos(path)]
    bad = {} if data.bad_list is None else load_bad_list(data.bad_list)
    names = [video for video in dict.fromkeys(names) if video not in bad]
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    seed_everything(recipe.seed)  # as the run does, whose tower, if it is not pretrained, has these weights
    tower = VisionTower(vision)
    digest = tower_hash(tower.state_dict(), vision)
    tower = tower.to(device).eval()
    size = vision.image_size
    videos = VideoDataset(
        names,
        data.videos,
        frames=data.frames,
        decoding=data.decoding,
        transform=train_transform(size, flip=data.flip) if data.augment else eval_transform(size),
        sampling=data.sampling,
        random=True,
    )
    if len(set(videos.stills)) > 1:
        raise ValueError(f"{data.train}: holds videos and images, expected one kind: a cache has one number of frames")
    store = write_features(
        out, videos, tower, tower_hash=digest, views=views, seed=recipe.seed,
        batch_size=batch_size, workers=data.workers, device=device,
        contents=data.check_contents, accept_changed=recipe.accept_changed_data,
    )  # fmt: skip
    say(f"{out}: {len(videos)} videos × {store.views} views, tokens {store.shape[2:]}, bfloat16")
