"""Every video of an annotation is decoded with each reader, which gives a report and a list of the bad videos.

Other processes decode the files (`stgt.data.isolated`), so that a file that never ends, or makes the decoder crash, can
be stopped. Training reads the list.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TypedDict

import numpy as np
from tqdm import tqdm

from stgt.data.errors import StoreError, VideoError
from stgt.data.images import holds_image
from stgt.data.inspection import Inspection, inspect
from stgt.data.isolated import Failure, Worker
from stgt.data.manifest.rows import Manifest
from stgt.data.video import MAX_PIXELS, Decoder, decoder_version
from stgt.files import errors_named, write_json, write_text
from stgt.ownership import owned
from stgt.structure import parse_json, shown
from stgt.terminal import printable

_Request = tuple[str, Decoder, np.ndarray | None, int]
"""The question to a worker: the path, the reader, PyAV's pictures of the file, and max_pixels"""

Opened = Callable[[], AbstractContextManager[str | Path]]
"""Gives the file of a video for the length of a block"""


class Entry(TypedDict):
    """A file in the report. `stgt.data.inspection.Inspection` describes the facts."""

    facts: dict[str, object]
    readers: dict[str, str | None]
    """{reader: why it does not read the file right, or None if it does}. Pillow reads images, PyAV and decord videos"""


def write_report(
    videos: Sequence[str],
    root: str | Path,
    *,
    report: Path,
    bad_list: Path,
    decoder: Decoder = "auto",
    max_pixels: int = MAX_PIXELS,
    timeout: float = 30.0,
    jobs: int = 1,
) -> dict[str, Entry]:
    """Check distinct videos below `root`, or those of a manifest; write and return what was found out about each one.

    report: the file to write {video: entry} into. bad_list: the file to write {video: cause} into, for the videos that
    `decoder` does not read right; training with that decoder reads it. Further arguments are those of `check_videos`.
    Meanwhile, the entries are kept in REPORT.partial, and a check that was interrupted goes on after the last of them.
    Raises ValueError for a decoder that is not installed, OwnedError if another command is writing the same files, and
    the errors of `check_videos`.
    """
    if decoder == "decord" and decoder not in _readers():
        raise ValueError("decoder is 'decord', and decord is not installed here: expected 'pyav'")
    with owned(report, beside=True), owned(bad_list, beside=True):
        entries = _check_on(videos, root, report, decoder, max_pixels=max_pixels, timeout=timeout, jobs=jobs)
        causes = {video: bad_cause(entry, decoder) for video, entry in entries.items()}
        write_json(bad_list, {video: cause for video, cause in causes.items() if cause is not None}, indent=0)
        write_json(report, entries)
        _partial(report).unlink()
    return entries


def _check_on(
    videos: Sequence[str], root: str | Path, report: Path, decoder: Decoder, *, max_pixels: int, **limits: float
) -> dict[str, Entry]:
    """The entries of all videos. Those that an interrupted check has found are not made again."""
    settings = check_settings(root, max_pixels)
    entries = _found_before(_partial(report), settings)
    places = {video: number for number, video in enumerate(videos) if video not in entries}
    left, opened = [*places], None
    if isinstance(videos, Manifest):
        opened = {str(Path(root) / video): partial(videos.opened, place, root) for video, place in places.items()}
    checked = check_videos([Path(root) / video for video in left], opened, max_pixels=max_pixels, **limits)
    write_text(_partial(report), "".join(f"{json.dumps(line)}\n" for line in [settings, *entries.items()]))
    with errors_named(_partial(report)), open(_partial(report), "a", encoding="utf-8") as file:
        bar = tqdm(checked, initial=len(videos) - len(left), total=len(videos), unit="video")
        for video, (path, entry) in zip(left, bar, strict=True):
            entries[video] = entry
            file.write(json.dumps((video, entry)) + "\n")
            file.flush()
            if (cause := bad_cause(entry, decoder)) is not None:
                bar.write(printable(f"{path}: {cause}"))
    return {video: entries[video] for video in videos}


def _partial(report: Path) -> Path:
    return report.with_name(f"{report.name}.partial")


def bad_cause(entry: Entry, decoder: Decoder) -> str | None:
    """Why `decoder` does not read a file right, or None if it does. Pillow reads images, whatever the decoder is."""
    readers = entry["readers"]
    return readers["pillow"] if "pillow" in readers else readers["decord" if decoder == "decord" else "pyav"]


def check_videos(
    paths: Sequence[str | Path],
    opened: Mapping[str, Opened] | None = None,
    *,
    max_pixels: int = MAX_PIXELS,
    timeout: float = 30.0,
    jobs: int = 1,
) -> Iterator[tuple[str, Entry]]:
    """Decode every frame of every file with each reader; yields (path, entry) in the order of the paths.

    opened: {path: a function that gives its file}, for paths that only name what is inside of other files.
    max_pixels: files with larger frames are refused. timeout: seconds that one reader may take for one file. jobs: how
    many files are decoded at a time. Raises ValueError if one of the three is not positive, and StoreError or
    PermissionError if a store of shards fails, because the videos may be good.
    """
    if not timeout > 0:
        raise ValueError(f"timeout is {timeout}, expected a positive number of seconds")
    for name, value in (("jobs", jobs), ("max_pixels", max_pixels)):
        if value < 1:
            raise ValueError(f"{name} is {value}, expected at least 1")
    paths = [str(path) for path in paths]
    return _check(paths, opened or {path: partial(nullcontext, path) for path in paths}, max_pixels, timeout, jobs)


def check_settings(root: str | Path, max_pixels: int) -> list:
    """The folder, the limit and the readers' versions. An interrupted check goes on only if none of them changed."""
    return [str(Path(root).resolve()), max_pixels, *map(decoder_version, _readers())]


def _readers() -> list[Decoder]:
    return ["pyav", "decord"] if find_spec("decord") else ["pyav"]


def _found_before(partial_report: Path, settings: list) -> dict[str, Entry]:
    """The entries that an interrupted check with the same settings has found. A line that was cut off is left out."""
    lines = partial_report.read_text("utf-8", errors="replace").split("\n")[:-1] if partial_report.exists() else []
    if not lines or lines[0] != json.dumps(settings):
        return {}
    entries = {}
    for number, line in enumerate(lines[1:], start=2):
        place = f"{partial_report}: line {number}"
        values = parse_json(line, place, list)
        if len(values) != 2 or not isinstance(values[0], str) or not _is_entry(values[1]):
            raise ValueError(f"{place} is {shown(values)}, expected a video and what was found out about it")
        entries[values[0]] = values[1]
    return entries


def _is_entry(value: object) -> bool:
    """Whether a JSON value is an `Entry`."""
    if not isinstance(value, dict) or value.keys() != {"facts", "readers"}:
        return False
    facts, readers = value["facts"], value["readers"]
    known = isinstance(readers, dict) and ("pillow" in readers or "pyav" in readers)
    return known and isinstance(facts, dict) and all(isinstance(cause, str | None) for cause in readers.values())


def _check(
    paths: list[str], opened: Mapping[str, Opened], max_pixels: int, timeout: float, jobs: int
) -> Iterator[tuple[str, Entry]]:
    imports = [name for name in _readers() if name == "decord"]
    workers = [Worker(_inspect, timeout, imports=imports) for _ in range(min(jobs, len(paths)))]
    idle = list(workers)

    def one(path: str) -> tuple[str, Entry]:
        worker = idle.pop()
        try:
            with opened[path]() as file:
                return path, _entry(str(file), worker, max_pixels)
        except StoreError:
            raise
        except VideoError as error:  # a member of a shard that cannot be read
            return path, _unreadable(str(error).partition(": ")[2])
        finally:
            idle.append(worker)

    try:
        with ThreadPoolExecutor(max(1, len(workers))) as threads:
            try:
                for start in range(0, len(paths), 1000):  # a waiting call needs a thousand times the memory of its path
                    yield from threads.map(one, paths[start : start + 1000])
            except BaseException:
                # Leaving the block would wait for every thread, and so for the files that are being decoded.
                threads.shutdown(wait=False, cancel_futures=True)
                for worker in workers:
                    worker.stop()
                raise
    finally:
        for worker in workers:
            worker.stop()


def _entry(path: str, worker: Worker[_Request, Inspection], max_pixels: int) -> Entry:
    def inspected(decoder: Decoder, pictures: np.ndarray | None = None) -> Inspection:
        found = worker.call((path, decoder, pictures, max_pixels))
        return Inspection(cause=found.cause) if isinstance(found, Failure) else found

    try:
        image = holds_image(path)
    except VideoError as error:
        return _unreadable(str(error).partition(": ")[2])
    found = inspected("pyav")
    readers = {"pillow" if image else "pyav": found.cause}
    if not image and "decord" in _readers():
        readers["decord"] = inspected("decord", found.pictures).cause
    return {"facts": found.facts, "readers": readers}


def _unreadable(cause: str) -> Entry:
    return {"facts": {}, "readers": dict.fromkeys(_readers(), cause)}


def _inspect(request: _Request) -> Inspection:
    path, decoder, pictures, max_pixels = request
    return inspect(path, decoder, max_pixels=max_pixels, shown=pictures)
