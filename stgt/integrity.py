"""Checks that data did not change since it was written, by checksums of files and rows, and that numbers are finite.

A folder's checksums are in `stgt.sha256`, one line per file as the command sha256sum writes them, so that
`sha256sum -c stgt.sha256` checks a folder as well. A JSON file can hold its own checksum as its first value.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from stgt.files import file_hash
from stgt.structure import parse_json

CHECKSUMS = "stgt.sha256"
_LINE = re.compile(rb"([0-9a-f]{64})  ([^\n]+)\n")
_CHANGED = "the file was changed or damaged after it was written"
_SEAL = re.compile(rb'\{\s*"sha256": "([0-9a-f]{64})"')
_ZEROS = "0" * 64


class NonFiniteError(RuntimeError):
    """A loss or gradient is NaN or infinite. No checkpoint holds weights that its step changed."""


class DamagedError(ValueError):
    """The bytes of a file or a row have changed since they were written. The message begins with the file."""


def sealed(values: Mapping[str, object]) -> str:
    """A JSON object whose first value, "sha256", is the checksum of the text with 64 zeros in that place."""
    text = json.dumps({"sha256": _ZEROS, **values}, indent=1) + "\n"
    return text.replace(_ZEROS, hashlib.sha256(text.encode()).hexdigest(), 1)


def seal_of(content: bytes) -> bool | None:
    """Whether the bytes of a JSON file agree with the checksum that `sealed` put into them, None if there is none."""
    if (seal := _SEAL.match(content)) is None:
        return None
    zeroed = content[: seal.start(1)] + _ZEROS.encode() + content[seal.end(1) :]
    return hashlib.sha256(zeroed).hexdigest().encode() == seal[1]


def read_sealed(path: Path) -> tuple[dict, bool]:
    """The values of a JSON object, and whether it has a checksum, that is, whether `sealed` wrote it.

    Raises DamagedError if the file is not a JSON object or does not agree with its checksum, and OSError if it cannot
    be read.
    """
    content = path.read_bytes()
    seal = seal_of(content)
    if seal is False:
        raise DamagedError(f"{path}: {_CHANGED}")
    try:
        values = parse_json(content.decode(), str(path), dict)
    except ValueError as error:
        raise DamagedError(f"{path}: {str(error).removeprefix(f'{path}: ')}") from None
    if seal:
        del values["sha256"]
    return values, bool(seal)


def require_hash(path: Path, expected: str) -> None:
    """Raise DamagedError unless the file exists and has this SHA-256."""
    if not path.is_file():
        raise DamagedError(f"{path}: there is no such file, but its checksum was recorded")
    if (found := file_hash(path)) != expected:
        raise DamagedError(f"{path}: {_CHANGED}; its SHA-256 is {found[:12]}…, expected {expected[:12]}…")


def checksum_lines(folder: Path) -> str:
    """The contents of `stgt.sha256` for all files in a folder and in its subfolders."""
    names = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return "".join(f"{file_hash(folder / name)}  {name}\n" for name in sorted(names) if name != CHECKSUMS)


def has_checksums(folder: Path) -> bool:
    """Whether a folder has a list of checksums."""
    return (folder / CHECKSUMS).is_file()


def verify_checksums(folder: Path, below: str = "") -> None:
    """Compare the files of a folder with its list of checksums. Files that are not listed are not read.

    below: only files whose names begin with this are compared.
    Raises DamagedError, which names the first file that differs or is missing.
    """
    path = folder / CHECKSUMS
    lines = [_LINE.fullmatch(line) for line in path.read_bytes().splitlines(keepends=True)]
    if not lines or None in lines:
        raise DamagedError(f"{path}: the list of checksums is damaged, expected lines of a SHA-256 and a file's name")
    for line in lines:
        if not line[2].startswith(os.fsencode(below)):
            continue
        try:
            require_hash(folder / os.fsdecode(line[2]), line[1].decode())
        except DamagedError as error:
            raise DamagedError(f"{error}; if it was changed on purpose, remove {path}") from None


def row_digests(rows: Tensor) -> Tensor:
    """SHA-256 of each row of a tensor (n, …), with its dtype and shape: uint8 (n, 32)."""
    rows = rows.detach().cpu().contiguous()
    kind = f"{rows.dtype} {tuple(rows.shape[1:])}".encode()
    digests = torch.empty(len(rows), 32, dtype=torch.uint8)
    for row, digest in zip(rows, digests, strict=True):
        sha256 = hashlib.sha256(kind)
        if row.numel():
            sha256.update(row.reshape(-1).view(torch.uint8).numpy().data)
        digest.copy_(torch.frombuffer(bytearray(sha256.digest()), dtype=torch.uint8))
    return digests


def damaged_row(rows: Tensor, digests: Tensor) -> int | None:
    """The number of the first row that does not agree with its digest from `row_digests`, or None if all agree."""
    differs = (row_digests(rows) != digests).any(1) if rows.shape[:1] == digests.shape[:1] else torch.tensor([True])
    return int(differs.nonzero()[0]) if differs.any() else None


def nonfinite(tensors: Mapping[str, Tensor]) -> list[str]:
    """The names of the tensors that hold a NaN or an infinity, in alphabetical order."""
    return sorted(
        name for name, tensor in tensors.items() if tensor.is_floating_point() and not torch.isfinite(tensor).all()
    )


def require_finite(tensors: Mapping[str, Tensor], where: object) -> None:
    """Raise ValueError, which begins with `where` and names the tensors, if a tensor holds a NaN or an infinity."""
    if names := nonfinite(tensors):
        more = f" and {len(names) - 3} more tensors" if len(names) > 3 else ""
        verb = "holds" if len(names) == 1 else "hold"
        raise ValueError(f"{where}: {', '.join(names[:3])}{more} {verb} NaN or infinite numbers, expected finite ones")


def require_finite_rows(rows: Tensor, items: Sequence[object], what: str) -> None:
    """Raise ValueError, which names the item, if its row of a tensor (n, …) holds a NaN or an infinity.

    items: the name of the item for each row. what: a name for the rows, for the message.
    """
    for row, item in zip(rows, items, strict=True):
        if not torch.isfinite(row).all():
            raise ValueError(f"{item}: {what} hold NaN or infinite numbers, expected finite ones; is the model whole?")
