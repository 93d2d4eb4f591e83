"""Fingerprints of data, by which a run notices that other data lies under the same names.

A fingerprint holds the SHA-256 of some files, the decoder, and a table of videos with the size and time of change of
each one, and on request the SHA-256 of its contents. It is one safetensors file with the name and 48 bytes per video.

Two files count as the same video if their contents agree, where both have been hashed, or else if their sizes and times
of change agree. Times that agree to the second are enough if one of them has no fraction of a second, because tar and
some file systems drop it when they copy.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open

from stgt.files import file_hash, tensors_hash, write_tensors
from stgt.integrity import DamagedError

logger = logging.getLogger(__name__)

FINGERPRINT = "data.fingerprint"
SHOWN = 8
"""How many differences of videos are listed one by one"""
_THREADS = 16  # a network file system answers many questions at a time
_NO_HASH = b"\0" * 32


@dataclass(frozen=True)
class Fingerprint:
    """Files, decoder and videos as they were at one time."""

    files: Mapping[str, str]
    """{what the file is for: its SHA-256}"""
    decoder: str
    names: list[str]
    """Videos in alphabetical order"""
    sizes: np.ndarray
    """int64 (videos,) in bytes, −1 where there was no file"""
    times: np.ndarray
    """int64 (videos,) in ns since 1970"""
    hashes: np.ndarray
    """uint8 (videos, 32): SHA-256 of the contents, zeros where they were not read"""

    @classmethod
    def take(
        cls,
        files: Mapping[str, str | Path],
        videos: Iterable[str],
        root: str | Path,
        *,
        decoder: str,
        contents: bool = False,
    ) -> Fingerprint:
        """The fingerprint of files and of the videos below `root`.

        files: {what the file is for: its path}. contents: whether to read the videos and hash their contents.
        """
        names = sorted(set(videos))

        with ThreadPoolExecutor(_THREADS) as threads:
            measured = list(threads.map(lambda name: _measured(Path(root) / name, contents), names))
        sizes, times, hashes = zip(*measured, strict=True) if measured else ((), (), ())
        return cls(
            {label: file_hash(path) for label, path in files.items()},
            decoder,
            names,
            np.array(sizes, np.int64),
            np.array(times, np.int64),
            np.frombuffer(b"".join(hashes), np.uint8).reshape(-1, 32),
        )

    @classmethod
    def of_row(cls, name: str, row: np.ndarray, *, decoder: str) -> Fingerprint:
        """The fingerprint of one video from the row that `row` returned."""
        hashes = row[2:].astype("<i8").view(np.uint8).reshape(1, 32)
        return cls({}, decoder, [name], row[:1], row[1:2], hashes)

    def row(self) -> np.ndarray:
        """The only video's size, time of change and hash of its contents: int64 (6,)."""
        return np.concatenate([self.sizes, self.times, self.hashes.reshape(-1).view("<i8")])

    def summary(self) -> dict:
        """The fingerprint in short, as JSON values: hashes of files, the decoder, the number of videos, one hash."""
        return {"files": dict(self.files), "decoder": self.decoder, "videos": len(self.names), "sha256": self.sha256()}

    def sha256(self) -> str:
        """One hash of the fingerprint. It leaves out the times of change if the contents of all videos were hashed."""
        description, tensors = self._parts()
        if self.hashes.any(1).all():
            del tensors["times"]
        return tensors_hash(tensors, description)

    def save(self, path: Path) -> None:
        """Write the fingerprint as a file that `load` reads."""
        description, tensors = self._parts()
        # The metadata has one value, because the order of several values differs from file to file.
        write_tensors(path, tensors, {"data": f"{tensors_hash(tensors, description)} {description}"})

    @classmethod
    def load(cls, path: Path) -> Fingerprint:
        """Read a file that `save` wrote. Raises DamagedError if any byte of it has changed."""
        try:
            with safe_open(path, "pt") as file:
                metadata = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no dictionary)
        except SafetensorError as error:
            raise DamagedError(f"{path}: cannot be read: {error}") from None
        checksum, _, description = metadata.get("data", "").partition(" ")
        if checksum != tensors_hash(tensors, description):
            raise DamagedError(f"{path}: the file was changed or damaged after it was written")
        values = json.loads(description)
        arrays = {name: tensors[name].numpy() for name in ("sizes", "times", "hashes")}
        return cls(values["files"], values["decoder"], json.loads(bytes(tensors["names"].numpy())), **arrays)

    def part(self, labels: Iterable[str], names: Iterable[str]) -> Fingerprint:
        """The fingerprint of some of the files and of some of the videos, as far as they are in this one."""
        wanted, labels = set(names), set(labels)
        rows = [row for row, name in enumerate(self.names) if name in wanted]
        return replace(
            self,
            files={label: sha256 for label, sha256 in self.files.items() if label in labels},
            names=[self.names[row] for row in rows],
            sizes=self.sizes[rows],
            times=self.times[rows],
            hashes=self.hashes[rows],
        )

    def _parts(self) -> tuple[str, dict[str, torch.Tensor]]:
        names = np.frombuffer(json.dumps(self.names).encode(), np.uint8)
        arrays = {"names": names, "sizes": self.sizes, "times": self.times}
        tensors = {key: torch.from_numpy(array.copy()) for key, array in (arrays | {"hashes": self.hashes}).items()}
        return json.dumps({"files": dict(self.files), "decoder": self.decoder}, sort_keys=True), tensors

    def completed(self, other: Fingerprint, root: str | Path) -> Fingerprint:
        """This fingerprint with hashes of contents where `other` has them and this one lacks them.

        A video of the same size and time gets the hash that `other` has. A video whose time alone differs is read below
        `root` and hashed, so that a copy counts as the same video, and counts as missing if it has vanished meanwhile.
        """
        ours, theirs = _rows_in_common(self, other)
        known = (self.sizes[ours] == other.sizes[theirs]) & other.hashes[theirs].any(1) & ~self.hashes[ours].any(1)
        same = known & _same_time(self.times[ours], other.times[theirs])
        sizes, times, hashes = self.sizes.copy(), self.times.copy(), self.hashes.copy()
        hashes[ours[same]] = other.hashes[theirs[same]]
        for row in ours[known & ~same]:
            sizes[row], times[row], contents = _measured(Path(root) / self.names[row], True)
            hashes[row] = np.frombuffer(contents, np.uint8)
        return replace(self, sizes=sizes, times=times, hashes=hashes)


def _measured(path: Path, contents: bool) -> tuple[int, int, bytes]:
    """Size, time of change and, on request, the hash of a file; (−1, 0, no hash) if there is none."""
    try:
        status = os.stat(path)
        return status.st_size, status.st_mtime_ns, bytes.fromhex(file_hash(path)) if contents else _NO_HASH
    except (OSError, ValueError):  # a name that no file can have raises ValueError
        return -1, 0, _NO_HASH


def require_same(what: str, changes: list[str], *, accept: bool) -> None:
    """Raise a ValueError that lists the changes, if there are any; with `accept`, log them as a warning instead.

    what: the sentence before the list. changes: the result of `data_differences`.
    """
    if not changes:
        return
    listed = "\n  ".join([f"{what}:", *changes])
    if not accept:
        raise ValueError(
            f"{listed}\n  put the data back, or repeat the command with --accept-changed-data to go on with it"
        )
    logger.warning("%s\n  --accept-changed-data is given, so the command goes on", listed)


def data_differences(
    now: Fingerprint, then: Fingerprint, *, absent_is_same: bool = False, count_names: bool = True
) -> list[str]:
    """The differences between two fingerprints, as lines of the form "name: value now, there value then".

    absent_is_same: whether a video that is missing now counts as unchanged.
    count_names: whether to tell how many videos are in only one of the two.
    """
    lines = []
    if now.decoder != then.decoder:
        lines.append(f"decoder: {now.decoder}, there {then.decoder}")
    for label in sorted(now.files.keys() | then.files.keys()):
        ours, theirs = (
            f"SHA-256 {hashes[label][:12]}…" if label in hashes else "none" for hashes in (now.files, then.files)
        )
        if now.files.get(label) != then.files.get(label):
            lines.append(f"{label}: {ours}, there {theirs}")
    if count_names and now.names != then.names:
        for ours, theirs, what in ((now, then, "new"), (then, now, "left out")):
            if only := sorted({*ours.names} - {*theirs.names}):
                lines.append(f"videos: {len(only)} of {len(ours.names)} are {what}, the first is {only[0]}")
    return lines + _video_differences(now, then, absent_is_same)


def _video_differences(now: Fingerprint, then: Fingerprint, absent_is_same: bool) -> list[str]:
    lines = []
    ours, theirs = _rows_in_common(now, then)
    sizes = now.sizes[ours], then.sizes[theirs]
    hashed = now.hashes[ours].any(1) & then.hashes[theirs].any(1)
    equal = np.where(
        hashed,
        (now.hashes[ours] == then.hashes[theirs]).all(1),
        (sizes[0] == sizes[1]) & _same_time(now.times[ours], then.times[theirs]),
    )
    if absent_is_same:
        equal |= sizes[0] < 0
    changed = np.flatnonzero(~equal)
    for row in changed[:SHOWN]:
        lines.append(f"{now.names[ours[row]]}: {_how(now, int(ours[row]))}, there {_how(then, int(theirs[row]))}")
    return lines + ([f"and {len(changed) - SHOWN} more videos"] if len(changed) > SHOWN else [])


def _rows_in_common(now: Fingerprint, then: Fingerprint) -> tuple[np.ndarray, np.ndarray]:
    """The rows of the videos that both have: int64 (n,) in `now`, int64 (n,) in `then`."""
    if now.names == then.names:
        rows = np.arange(len(now.names))
        return rows, rows
    places = {name: row for row, name in enumerate(then.names)}
    pairs = [(row, places[name]) for row, name in enumerate(now.names) if name in places]
    return tuple(np.array(pairs, np.int64).reshape(-1, 2).T)


def _same_time(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    second = 1_000_000_000
    whole = (ours % second == 0) | (theirs % second == 0)
    return (ours == theirs) | (whole & (ours // second == theirs // second))


def _how(fingerprint: Fingerprint, row: int) -> str:
    if fingerprint.sizes[row] < 0:
        return "no file"
    if fingerprint.hashes[row].any():
        return f"SHA-256 {bytes(fingerprint.hashes[row][:6]).hex()}…"
    time = datetime.fromtimestamp(fingerprint.times[row] / 1e9).isoformat(" ", "milliseconds")
    return f"{fingerprint.sizes[row]} bytes of {time}"
