"""A folder of any videos, encoded once: only files that are new or have changed are read again."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from tqdm import tqdm

from stgt.data.files import VIDEOS
from stgt.data.transforms import test_transform
from stgt.data.video import VideoError, read_frames
from stgt.evaluation.store import Store, digest
from stgt.training.distributed import World
from stgt.training.run import Run

# A process decodes, so that a file that never ends, or that crashes the decoder, can be given up. It is forked, as data
# loader workers are.
_processes = multiprocessing.get_context("fork")


class Index(NamedTuple):
    """The videos of a folder that can be read, what a model makes of each, and why the others cannot be read."""

    videos: list[Path]
    store: Store
    """embeds (V, S, C) and queries (V, Q, E)"""
    broken: dict[Path, str]


def find_videos(folder: Path) -> list[Path]:
    """The video files in a folder and the folders in it, by their suffixes, in alphabetical order; no hidden ones.

    Raises ValueError where there is none.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder} is no folder, expected one with videos in it")
    found = (path for path in folder.rglob("*") if path.suffix.lower() in VIDEOS and path.is_file())
    videos = sorted(path for path in found if not any(part.startswith(".") for part in path.relative_to(folder).parts))
    if not videos:
        raise ValueError(f"{folder} holds no video, expected files ending in {', '.join(VIDEOS)}")
    return videos


@torch.inference_mode()
def index_folder(run: Run, folder: Path, kept: Path, *, batch_size: int = 32, timeout: float = 60.0) -> Index:
    """Encode the videos of a folder that `kept`/folder-… does not have yet, and drop there those that are gone.

    A file is known by path, size and time of change. One that cannot be read, or not within `timeout` seconds, is left
    out, and tried again the next time. Raises ValueError if there is no video, or none that can be read.
    """
    names = {_name(path, run): path for path in find_videos(folder)}
    store = Store(kept / f"folder-{digest(str(folder.resolve()))}", dict.fromkeys(names, 1))
    store.keep_only()
    missing, broken = store.missing(), {}
    data = run.config.data
    read = partial(_pixels, frames=data.frames, decoding=data.decoding, size=run.config.model.vision.image_size)
    device = next(run.model.parameters()).device
    progress = tqdm(total=len(missing), desc=f"{folder}", unit="video", disable=len(missing) < 8)
    with store.owned(World(0, 1, device), missing), progress as bar:
        for start in range(0, len(missing), batch_size):
            part = missing[start : start + batch_size]
            readable = {}
            for name, result in zip(part, _each(read, [names[name] for name in part], timeout, run), strict=True):
                if isinstance(result, str):
                    broken[names[name]] = result
                else:
                    readable[name] = torch.from_numpy(result)
                bar.update()
            if readable:
                features = run.model.encode_video(torch.stack(list(readable.values())).to(device))
                for name, embeds, queries in zip(readable, features.embeds, features.queries, strict=True):
                    store.write(name, embeds=embeds[None], queries=queries[None])
    videos = {name: path for name, path in names.items() if path not in broken}
    if not videos:
        path, cause = next(iter(broken.items()))
        raise ValueError(f"{folder} holds no video that can be read; {path}: {cause}")
    return Index(list(videos.values()), Store(store.folder, dict.fromkeys(videos, 1)), broken)


def _name(path: Path, run: Run) -> str:
    stat = path.stat()
    return digest(str(path.resolve()), stat.st_size, stat.st_mtime_ns, run.config.data.frames)


def _pixels(path: Path, frames: int, decoding: dict, size: int) -> np.ndarray | str:
    """Frames (T, 3, S, S) as evaluation sees them, or what is wrong with the file."""
    try:
        return test_transform(size)(read_frames(path, frames, **decoding).permute(0, 3, 1, 2)).numpy()
    except VideoError as error:
        return str(error).removeprefix(f"{path}: ")


def _each(
    read: Callable[[Path], np.ndarray | str], paths: Sequence[Path], timeout: float, run: Run
) -> Iterator[np.ndarray | str]:
    """`read` of each path, in other processes; what does not end costs its file `timeout` seconds, and no more."""
    while paths:
        jobs = min(max(1, run.config.data.workers), len(paths))
        # One thread each: those of a library do not survive a fork.
        with _processes.Pool(jobs, torch.set_num_threads, (1,)) as pool:  # whose end kills what still runs
            results, late = pool.imap(read, paths), False
            while paths and not late:
                try:
                    yield results.next(timeout)
                except multiprocessing.TimeoutError:
                    yield f"decoding did not end within {timeout:g} s"
                    late = True
                paths = paths[1:]
