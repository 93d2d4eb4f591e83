"""Decoding every video of an annotation once with each reader, where a file that never ends can be stopped.

A decoder that waits for ever cannot be ended by a thread or signal handler of its process. So the files are decoded by
a few long-lived processes, which are killed and replaced when a file takes too long or makes the decoder crash. What
they find becomes a report of all files, and a list of the bad ones, which training reads.
"""

from __future__ import annotations

import importlib
import json
import multiprocessing.connection
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import TypedDict

from tqdm import tqdm

from stgt.data.errors import VideoError
from stgt.data.images import holds_image
from stgt.data.inspection import Inspection, inspect
from stgt.data.processes import ReaderContext
from stgt.data.video import MAX_PIXELS, Decoder, decoder_version
from stgt.files import errors_named, write_json, write_text
from stgt.ownership import owned
from stgt.structure import parse_json, shown
from stgt.terminal import printable


class Entry(TypedDict):
    """A file in the report; `stgt.data.inspection.Inspection` describes the facts."""

    facts: dict[str, object]
    readers: dict[str, str | None]
    """By reader (pyav and decord of videos, pillow of images): why it does not read the file right, None if it does"""


_processes = ReaderContext()


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
    """Check distinct videos below `root`; writes and returns what was found out about each of them.

    report: file of {video: entry}. bad_list: file of {video: cause}, of the videos that `decoder` does not read right,
    for training with that decoder. Further arguments: as `check_videos` takes them.
    What is found is kept in REPORT.partial meanwhile, and a check that was interrupted goes on after the last of it.
    Raises ValueError for a decoder that is not installed, OwnedError if another command is writing the same files, and
    as `check_videos`.
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
    """The entries of all videos: those that an interrupted check found, and those that are left."""
    settings = check_settings(root, max_pixels)
    entries = _found_before(_partial(report), settings)
    left = [video for video in videos if video not in entries]
    checked = check_videos([Path(root) / video for video in left], max_pixels=max_pixels, **limits)
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
    """Why frames that are read with `decoder` are not right, None if they are."""
    readers = entry["readers"]
    return readers["pillow"] if "pillow" in readers else readers["decord" if decoder == "decord" else "pyav"]


def check_videos(
    paths: Sequence[str | Path], *, max_pixels: int = MAX_PIXELS, timeout: float = 30.0, jobs: int = 1
) -> Iterator[tuple[str, Entry]]:
    """Decode every frame of every file with each reader; yields (path, what was found out), in the order given.

    max_pixels: of a frame; larger ones are refused. timeout: seconds that one reader may take for one file. jobs: how
    many files are decoded at a time. Raises ValueError if one of them is not positive.
    """
    if not timeout > 0:
        raise ValueError(f"timeout is {timeout}, expected a positive number of seconds")
    for name, value in (("jobs", jobs), ("max_pixels", max_pixels)):
        if value < 1:
            raise ValueError(f"{name} is {value}, expected at least 1")
    return _check([str(path) for path in paths], max_pixels, timeout, jobs)


def check_settings(root: str | Path, max_pixels: int) -> list:
    """What has to be the same for an interrupted check to go on: folder, limit, and versions of the readers."""
    return [str(Path(root).resolve()), max_pixels, *map(decoder_version, _readers())]


def _readers() -> list[Decoder]:
    return ["pyav", "decord"] if find_spec("decord") else ["pyav"]


def _found_before(partial_report: Path, settings: list) -> dict[str, Entry]:
    """What an interrupted check with the same settings has found; a line that was cut off is left out."""
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


def _check(paths: list[str], max_pixels: int, timeout: float, jobs: int) -> Iterator[tuple[str, Entry]]:
    inspectors = [_Inspector(max_pixels, timeout) for _ in range(min(jobs, len(paths)))]
    idle = list(inspectors)

    def one(path: str) -> tuple[str, Entry]:
        inspector = idle.pop()
        try:
            return path, _entry(path, inspector)
        finally:
            idle.append(inspector)

    try:
        with ThreadPoolExecutor(max(1, len(inspectors))) as threads:
            try:
                for start in range(0, len(paths), 1000):  # a pending call takes a thousand times the memory of its path
                    yield from threads.map(one, paths[start : start + 1000])
            except BaseException:  # the block waits for every thread, and so for what is being decoded
                threads.shutdown(wait=False, cancel_futures=True)
                for inspector in inspectors:
                    inspector.stop()
                raise
    finally:
        for inspector in inspectors:
            inspector.stop()


def _entry(path: str, inspector: _Inspector) -> Entry:
    try:
        image = holds_image(path)
    except VideoError as error:
        cause = str(error).removeprefix(f"{path}: ")
        return {"facts": {}, "readers": dict.fromkeys(_readers(), cause)}
    found = inspector.inspect(path, "pyav")
    readers = {"pillow" if image else "pyav": found.cause}
    if not image and "decord" in _readers():
        readers["decord"] = inspector.inspect(path, "decord", found.pictures).cause
    return {"facts": found.facts, "readers": readers}


class _Inspector:
    """A process that inspects the files it is sent; started when needed, killed when late."""

    def __init__(self, max_pixels: int, timeout: float) -> None:
        self._max_pixels, self._timeout, self._process = max_pixels, timeout, None

    def inspect(self, path: str, decoder: Decoder, pictures: object = None) -> Inspection:
        if self._process is None:
            self._start()
        self._pipe.send((path, decoder, pictures))
        try:
            if self._pipe.poll(self._timeout):
                return self._pipe.recv()
            cause = f"decoding did not end within {self._timeout:g} s"
        except EOFError:
            self._process.join()
            cause = f"the decoder crashed with exit code {self._process.exitcode}"
        self.stop()
        return Inspection(cause=cause)

    def _start(self) -> None:
        self._pipe, theirs = _processes.Pipe()
        self._process = _processes.Process(target=_serve, args=(theirs, self._max_pixels), daemon=True)
        self._process.start()
        theirs.close()
        self._pipe.recv()  # the process is up: its start does not count against the first file

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._pipe.close()
            self._process = None


def _serve(pipe: multiprocessing.connection.Connection, max_pixels: int) -> None:
    if "decord" in _readers():
        importlib.import_module("decord")  # so that this does not count against the first file either
    pipe.send(None)
    while True:
        try:
            path, decoder, pictures = pipe.recv()
        except EOFError:
            return
        pipe.send(inspect(path, decoder, max_pixels=max_pixels, shown=pictures))
