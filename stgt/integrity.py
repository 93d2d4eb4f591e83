"""Proof that what is read back is what was written: checksums of files and of rows, and numbers that are finite.

A folder's checksums are in `stgt.sha256`, one line per file as the command sha256sum writes them, so that
`sha256sum -c stgt.sha256` checks a folder as well.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from stgt.files import file_hash, write_text

CHECKSUMS = "stgt.sha256"
_LINE = re.compile(r"([0-9a-f]{64})  ([^\n]+)\n")


class DamagedError(ValueError):
    """A file or a row whose bytes are not those that were written."""


def write_checksums(folder: Path) -> None:
    """List the SHA-256 of every file in a folder and in the folders below it."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != CHECKSUMS)
    lines = [f"{file_hash(path)}  {path.relative_to(folder).as_posix()}\n" for path in files]
    write_text(folder / CHECKSUMS, "".join(lines))


def has_checksums(folder: Path) -> bool:
    """Whether a folder has a list of checksums."""
    return (folder / CHECKSUMS).is_file()


def verify_checksums(folder: Path, names: Iterable[str] | None = None) -> None:
    """Compare files of a folder with its list of checksums: those given by name, or all that are listed.

    Raises DamagedError that names the first file that differs, is missing or is not listed.
    """
    expected = _read_checksums(folder)
    for name in expected if names is None else names:
        path = folder / name
        if name not in expected:
            raise DamagedError(f"{path}: {folder / CHECKSUMS} does not list this file; one of the two was changed")
        if not path.is_file():
            raise DamagedError(f"{path}: there is no such file, but {folder / CHECKSUMS} lists it")
        if (found := file_hash(path)) != expected[name]:
            raise DamagedError(
                f"{path}: the file was changed or damaged after it was written: "
                f"its SHA-256 is {found[:12]}…, expected {expected[name][:12]}…"
            )


def _read_checksums(folder: Path) -> dict[str, str]:
    path = folder / CHECKSUMS
    try:
        text = path.read_text("utf-8")
    except FileNotFoundError:
        raise DamagedError(f"{path}: there is no such file, expected the checksums of its folder") from None
    except UnicodeDecodeError as error:
        raise DamagedError(f"{path}: the list of checksums was damaged: {error}") from None
    lines = text.splitlines(keepends=True)
    parsed = [_LINE.fullmatch(line) for line in lines]
    if not lines or None in parsed:
        raise DamagedError(f"{path}: the list of checksums was damaged, expected lines of a SHA-256 and a file's name")
    return {line[2]: line[1] for line in parsed}


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
    """The number of the first row whose digest is not the one that `row_digests` gave, None if all agree."""
    differs = (row_digests(rows) != digests).any(1) if rows.shape[:1] == digests.shape[:1] else torch.tensor([True])
    return int(differs.nonzero()[0]) if differs.any() else None


def nonfinite(tensors: Mapping[str, Tensor]) -> list[str]:
    """The names of the tensors that hold a NaN or an infinity, in alphabetical order."""
    return sorted(
        name for name, tensor in tensors.items() if tensor.is_floating_point() and not torch.isfinite(tensor).all()
    )


def require_finite(tensors: Mapping[str, Tensor], where: object) -> None:
    """Raise ValueError that names `where` and the tensors that hold a NaN or an infinity."""
    if names := nonfinite(tensors):
        more = f" and {len(names) - 3} tensors more" if len(names) > 3 else ""
        raise ValueError(f"{where}: {', '.join(names[:3])}{more} holds NaN or infinite numbers, expected finite ones")
