"""`stgt data …`: simulated clips, annotations, broken videos, feature caches."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from stgt.cli import train as recipes
from stgt.data.datasets import DATA_SETS
from stgt.data_config import MAX_PIXELS, Decoder
from stgt.paths import given_path
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
    kind: Literal["motions", "phases"] = "motions",
) -> None:
    """Render simulated clips of moving shapes, with captions, questions and scene graphs.

    Args:
        out: Folder to write. A folder that holds the same clips already is not changed.
        train: Number of clips to train on.
        test: Number of test clips. Their captions differ in meaning from each other and from all training captions.
        seed: Seed that decides the clips.
        size: Height and width of a frame in pixels.
        frames: Number of frames of a clip.
        kind: "motions" are clips with one motion per object. In "phases" one motion follows another, slowly or quickly,
            at times that scenes.json tells.
    """
    from stgt.data.shapes import render_shapes

    folder = render_shapes(out, train=train, test=test, seed=seed, size=size, frames=frames, kind=kind)
    say(f"{folder} holds {train} + {test} simulated clips, seed {seed}")


def convert(
    dataset: Annotated[Dataset, tyro.conf.Positional],
    source: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="DOWNLOADS")],
    out: Path,
    videos: Path | None = None,
    hold_out: int = 0,
    any_size: bool = False,
) -> None:
    """Write annotations from the downloaded files of a data set: OUT/{train,val,test}.json, or qa_….json.

    A split whose size differs from the published one is an error.

    Args:
        dataset: Name of the data set. docs/data.md says which files and splits each data set has.
        source: Folder of the downloaded files, with their original names.
        out: Folder to write, e.g. data/msrvtt.
        videos: Folder of the videos or images, which may be in subfolders and in any container. The names in the
            annotations come from there, and pairs without a file are left out.
        hold_out: Number of training videos that become the validation split, if there is none. They are always the
            same ones.
        any_size: Accept splits that are smaller or larger than the published ones.
    """
    from stgt.data.convert import convert

    convert(dataset, source, out, videos=videos, hold_out=hold_out, any_size=any_size)


def merge(
    annotations: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="ANNOTATION ...")],
    out: Path,
    videos: Path = Path("data"),
) -> None:
    """Join caption annotations, such as those of WebVid and CC3M. Each batch then has videos or images only.

    With one annotation, only its names are written anew. An annotation for validation needs this, because its names
    have to be relative to the same folder as those for training.

    Args:
        annotations: Annotations such as data/webvid/train.json, each with its videos or images in the folder `videos`
            beside it. Shards may lie beside their manifest.
        out: Annotation to write: JSON, or a manifest if it ends in .parquet, as it has to if one of them is a manifest.
        videos: Folder that contains all of these folders; it is given to training as --data.videos.
    """
    from stgt.data.merge import merge

    merge(annotations, out, videos)


def manifest(source: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="SOURCE")], out: Path) -> None:
    """Write a manifest in Parquet: of an annotation in JSON, or of a folder of tar shards in WebDataset's form.

    Args:
        source: Annotation of captions or questions, such as data/webvid/train.json; or a folder of .tar files, or one
            such file, or an address of them that fsspec reads, such as s3://bucket/cc3m, as WebDataset, video2dataset
            and img2dataset write them.
        out: Parquet file to write. Training reads it as --data.train; the names in it are relative to --data.videos.
    """
    from stgt.data.manifest.write import write_manifest
    from stgt.data.shards.scan import scan_shards

    if source.endswith(".json"):
        say(f"{out}: {write_manifest(given_path(source), out)} videos or images")
    else:
        rows, shards = scan_shards(source, out)
        say(f"{out}: {rows} videos or images in {shards} shards")


def pack(
    annotation: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="ANNOTATION")],
    out: Path,
    videos: Path | None = None,
    shard_size: str = "1GB",
    bad_list: Path | None = None,
) -> None:
    """Pack the videos or images of an annotation into tar shards in WebDataset's form, with a manifest of them.

    Args:
        annotation: Annotation of captions or questions in JSON, or a manifest.
        out: Folder to write. Of train.json, it gets train-000000.tar and so on, and the manifest train.parquet. Several
            annotations may be packed into one folder, which is given to training as --data.videos.
        videos: Folder that the names in the annotation are relative to; the folder `videos` beside it if not given.
        shard_size: Largest size of a shard. A video that is larger has a shard of its own.
        bad_list: The list that `stgt data check` wrote, whose videos are left out.
    """
    from stgt.data.shards.pack import pack, parse_size

    videos = videos or annotation.parent / "videos"
    written = pack(annotation, videos, out, shard_size=parse_size(shard_size), bad_list=bad_list)
    say("{}: {} videos or images in {} shards".format(*written))


def check(
    annotation: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="ANNOTATION")],
    videos: Path | None = None,
    out: Path | None = None,
    report: Path | None = None,
    decoder: Decoder = "auto",
    max_pixels: int = MAX_PIXELS,
    timeout: float = 30.0,
    jobs: int | None = None,
) -> None:
    """Decode every video of an annotation with each reader. List the videos that are read wrongly, and report on all.

    A video is read correctly if it can be decoded, if a frame that is read alone is the same as when the whole video is
    decoded, and if players show the same frame. Training leaves the other videos out if --data.bad-list names the list.
    An interrupted check goes on where it stopped.

    Args:
        annotation: Annotation of captions or questions, or a manifest.
        videos: Folder that the names in it are relative to; the folder `videos` beside it if not given.
        out: JSON file for the list, {video: cause}; ANNOTATION.bad.json if not given.
        report: JSON file with the properties of each video and the reasons why a reader reads it wrongly; the name of
            OUT with the ending .report.json if not given.
        decoder: The reader that training uses (--data.decoder). The list holds the videos that it reads wrongly.
        max_pixels: Videos and images with larger frames are refused, as by --data.max-pixels in training.
        timeout: Seconds that one reader may take for one video.
        jobs: Number of videos that are decoded at a time; the number of cores if not given.
    """
    from collections import Counter

    from stgt.data.annotations import load_videos
    from stgt.data.check import bad_cause, write_report

    names, videos = load_videos(annotation), videos or annotation.parent / "videos"
    if not videos.is_dir():
        raise ValueError(f"{videos}: there is no such folder, expected the videos of {annotation}; name it by --videos")
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
        say(f"{name} reads {count} of {len(names)} videos wrongly; {report} says why")
    say(f"{len(bad)} of {len(names)} videos are broken; {out} lists them")


def features(
    recipe: recipes.Recipe, out: Path, views: int = 1, batch_size: int = 16, ray: bool = False, device: str = "auto"
) -> None:
    """Write the tokens that the frozen tower gives for the videos of a recipe. Training reads them by --data.features.

    Both the training and the validation videos are written, with the same transform. A command that was stopped goes on
    where it stopped, and several processes with the same command share the work. The options of this command stand
    before the name of the recipe, and the options of the recipe after it.

    Args:
        recipe: The recipe that will read the tokens. It decides the tower, the transform, the frames and the sampling.
        out: Folder to write. A folder that holds the same tokens already is not changed.
        views: Number of times that each video is read, each time with another augmentation and other frames.
        batch_size: Number of views that the tower sees at a time, and that a file of tokens holds.
        ray: Read and compute on all machines of a Ray cluster, which see the videos under the same paths: the one that
            RAY_ADDRESS names or that runs here. If there is none, this machine works with all its GPUs.
        device: "auto" is a GPU where there is one. Each process that torchrun starts takes its own.
    """
    from stgt.data.annotations import load_bad_names, load_videos
    from stgt.data.manifest.rows import Manifest
    from stgt.data.samples import VideoDataset
    from stgt.data.transforms import eval_transform, train_transform
    from stgt.data.write_features import write_features
    from stgt.distributed import choose_device
    from stgt.models.vision import VisionTower
    from stgt.randomness import seed_everything
    from stgt.tasks import task_of
    from stgt.training.start import start_tower
    from stgt.weights.tower import tower_hash

    data, vision = recipe.data, recipe.model.vision
    if vision.open_blocks != 0:
        raise ValueError(f"vision.open_blocks is {vision.open_blocks}, expected 0: only a frozen tower can be cached")
    bad, kind = load_bad_names(data.bad_list), task_of(recipe.model).kind
    annotations = [path for path in (data.train, data.val) if path is not None]
    found = [load_videos(path, kind=kind) for path in annotations]
    splits = [names if isinstance(names, Manifest) else [name for name in names if name not in bad] for names in found]
    seed_everything(recipe.seed)  # a tower that is not pretrained gets the same weights as in the run
    tower = VisionTower(vision)
    if recipe.init is not None:
        start_tower(tower, recipe.init)
    digest = tower_hash(tower.state_dict(), vision)
    chosen = choose_device(device)
    tower = tower.to(chosen).eval()
    size = vision.sizes.image_size
    views_of = dict(
        frames=data.frames,
        decoding=data.decoding,
        transform=train_transform(size, flip=data.flip) if data.augment else eval_transform(size),
        sampling=data.sampling,
        random=True,
    )
    videos = [VideoDataset(names, data.videos, **views_of) for names in splits]
    if len(set.union(*(part.videos.kinds() for part in videos))) > 1:
        raise ValueError(
            f"{' and '.join(map(str, annotations))}: there are videos and images, expected one kind, because a cache "
            "has one number of frames; a row of a manifest that --data.bad-list lists counts, too, unless its column "
            "bad says so as well"
        )
    store = write_features(
        out, videos, tower, tower_hash=digest, views=views, seed=recipe.seed,
        batch_size=batch_size, workers=data.workers, ray=ray, device=chosen,
        contents=data.check_contents, accept_changed=recipe.accept_changed_data, bad=bad,
        max_replacements=data.max_replacements,
    )  # fmt: skip
    say(f"{out}: {store.shape[0]} videos × {store.views} views, tokens {store.shape[2:]}, bfloat16")
