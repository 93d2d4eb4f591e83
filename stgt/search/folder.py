"""Encodes the videos of a folder once. Later, only files that are new or have changed are read."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from stgt.data.fingerprint import Fingerprint, data_differences
from stgt.data.isolated import Failure, call_each
from stgt.data.pixels import read_pixels_array
from stgt.data.store import Batches, Store, digest
from stgt.data.video import DEADLINE, decoder_version
from stgt.integrity import DamagedError, require_finite_rows
from stgt.runs import Run
from stgt.search.films import find_videos, first_fault, names_of
from stgt.terminal import printable

logger = logging.getLogger(__name__)


class EncodedFolder(NamedTuple):
    """The videos of a folder that can be read, the model's outputs for them, and why the others cannot be read."""

    videos: list[Path]
    store: Store
    """embeds (V, S, C) and queries (V, Q, E)"""
    broken: dict[Path, str]


@torch.inference_mode()
def index_folder(
    run: Run, folder: Path, kept: Path, *, batch_size: int = 32, timeout: float = DEADLINE
) -> EncodedFolder:
    """Encode the videos of a folder that `kept`/folder-… does not have yet, and remove those that are gone from it.

    A file is identified by its path, size, time of change (or contents, with `data.check_contents`) and decoder. A file
    that cannot be read within `timeout` seconds is left out, and tried again the next time. A file that has changed
    since it was encoded is encoded again, and a warning lists the differences. Raises ValueError if there is no video,
    or none that can be read. The store raises DamagedError for a damaged row when the row is read.
    """
    videos, broken, _ = find_videos(folder)
    data = run.config.data
    decoder = decoder_version(data.decoder)
    now = Fingerprint.take({}, map(str, videos), "", decoder=decoder, contents=data.check_contents)
    names = names_of(videos, now, broken, data.frames)
    store = Store(kept / f"folder-{digest(str(folder.resolve()))}", dict.fromkeys(names, 1))
    record = store.folder.with_suffix(".fingerprint")
    _warn_of_changes(folder, store.folder, record, now)
    store.keep_only()

    def compute(claimed: Iterator[str]) -> Batches:
        return _encode_each(run, (names[name] for name in claimed), broken, batch_size, timeout)

    store.fill(compute, what=printable(f"{folder}"))
    now.save(record)
    whole = {name: path for name, path in names.items() if path not in broken}
    if not whole:
        raise ValueError(f"{folder} holds no video that can be read{first_fault(broken)}")
    return EncodedFolder(list(whole.values()), store.part(list(whole)), broken)


def _warn_of_changes(folder: Path, place: Path, record: Path, now: Fingerprint) -> None:
    """Log why videos that were encoded before, in `place`, are encoded again."""
    try:
        then = Fingerprint.load(record)
    except FileNotFoundError:
        if place.is_dir():
            logger.warning(
                "%s was indexed by version 0.1.0, which did not record its decoder, so it is indexed again", folder
            )
        return
    except DamagedError as error:
        logger.warning("%s; it only says which videos have changed, and it is written again", error)
        return
    if changes := data_differences(now, then, count_names=False):
        logger.warning("%s has changed, and the changed videos are indexed again:\n  %s", folder, "\n  ".join(changes))


def _encode_each(run: Run, paths: Iterator[Path], broken: dict[Path, str], batch_size: int, timeout: float) -> Batches:
    """The model's output for each video, or None for one that cannot be read, whose cause is added to `broken`."""
    data, size = run.config.data, run.config.model.vision.sizes.image_size
    read = partial(read_pixels_array, frames=data.frames, image_size=size, **data.decoding)
    paths, asked = itertools.tee(paths)
    with closing(call_each(read, asked, timeout=timeout, jobs=max(1, data.workers))) as results:
        while group := list(zip(itertools.islice(results, batch_size), paths, strict=False)):
            broken.update({path: result.cause for result, path in group if isinstance(result, Failure)})
            clips = {path: torch.from_numpy(result) for result, path in group if not isinstance(result, Failure)}
            encoded = _encode(run, clips) if clips else {}
            yield from (encoded.get(path) for _, path in group)


def _encode(run: Run, clips: dict[Path, Tensor]) -> dict[Path, dict[str, Tensor]]:
    """The model's output for each clip (T, 3, S, S). Raises ValueError, which names it, if one is not finite."""
    features = run.model.encode_video(torch.stack(list(clips.values())).to(run.device))
    require_finite_rows(features.queries, list(clips), "the model's queries")
    rows = zip(features.embeds.split(1), features.queries.split(1), strict=True)
    return {path: {"embeds": embeds, "queries": queries} for path, (embeds, queries) in zip(clips, rows, strict=True)}
