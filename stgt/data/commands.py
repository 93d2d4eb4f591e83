"""What `stgt data …` does, as functions of plain arguments."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from stgt.config import TrainConfig


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
    dataset: Literal["msrvtt", "msvd", "didemo", "lsmdc", "webvid"],
    source: Path,
    out: Path,
    keep: Path | None = None,
    drop: Path | None = None,
) -> None:
    """Make a retrieval annotation of the file that a benchmark comes with.

    Args:
        dataset: Whose file it is.
        source: MSRVTT_data.json or MSRVTT_JSFUSION_test.csv; MSVD's captions as text or JSON; DiDeMo's JSON;
            LSMDC's or WebVid's CSV.
        out: JSON file to write.
        keep: Only the videos named in this file: a line each, or a CSV with a column video_id.
        drop: All but the videos named in this file, e.g. MSRVTT_JSFUSION_test.csv for the 9k training videos.
    """
    from stgt.data.annotations import save_captions
    from stgt.data.readers import READERS, name_of, read_names

    clips = READERS[dataset](source)
    if keep is not None:
        names = read_names(keep)
        clips = [clip for clip in clips if name_of(clip.video) in names]
    if drop is not None:
        names = read_names(drop)
        clips = [clip for clip in clips if name_of(clip.video) not in names]
    if not clips:
        raise ValueError(f"{source} holds no video that keep={keep} and drop={drop} leave, expected at least one")
    out.parent.mkdir(parents=True, exist_ok=True)
    save_captions(clips, out)
    print(f"{out}: {len(clips)} videos, {sum(len(clip.captions) for clip in clips)} captions")


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
