"""Tensors with a row per item, computed and kept in batches: what is there is not computed again.

Each batch is a safetensors file that is there in full or not at all, so that a killed evaluation goes on where it was,
and processes that see one folder share its batches between them. Files are memory-mapped: reading some rows of some
items reads nothing else. Beside each tensor `key` a file holds `key.sha256`, the checksum of each row, with which a row
is compared when it is read.
"""

from __future__ import annotations

import hashlib
import itertools
import logging
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from stgt.distributed import World
from stgt.files import write_tensors
from stgt.integrity import DamagedError, damaged_row, require_finite_rows, row_digests
from stgt.ownership import owned

logger = logging.getLogger(__name__)

_CHECKSUMS = ".sha256"


def digest(*parts: object) -> str:
    """A short name for what tensors depend on: the beginning of the SHA-256 of tensors' bytes and others' repr."""
    sha = hashlib.sha256()
    for part in parts:
        if isinstance(part, Tensor):
            sha.update(f"{part.dtype} {tuple(part.shape)}".encode())
            sha.update(part.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
        else:
            sha.update(repr(part).encode())
        sha.update(b"\0")
    return sha.hexdigest()[:16]


def batches(items: int, size: int) -> dict[str, int]:
    """Batch names and sizes of so many items; the same for any number of processes, so that results are as well."""
    return {f"{start // size:06}": min(size, items - start) for start in range(0, items, size)}


class Store:
    """A folder of batches. Its name should be a `digest` of all that its tensors depend on."""

    def __init__(self, folder: Path, files: Mapping[str, int]) -> None:
        """files: the batches' names and numbers of items, in the items' order."""
        self.folder, self._names = folder, list(files)
        self._starts = list(itertools.accumulate(files.values(), initial=0))
        self._items = {name: range(*ends) for name, ends in zip(files, itertools.pairwise(self._starts), strict=True)}

    def __len__(self) -> int:
        return self._starts[-1]

    def items(self, name: str) -> range:
        """The numbers of a batch's items."""
        return self._items[name]

    def missing(self, world: World | None = None) -> list[str]:
        """The batches that are not there, or damaged; of several processes each gets its own share of them."""
        mine = self._names[world.rank :: world.size] if world else self._names
        return [name for name in mine if not self._is_whole(name)]

    @contextmanager
    def owned(self, world: World, names: Sequence[str]) -> Iterator[None]:
        """Be the only command that writes this store, if there is any batch to write: `names` are this process's.

        Of several processes the main one holds the lock for all. Raises OwnedError if another command holds it.
        """
        needed = world.any(bool(names))
        with owned(self.folder) if needed and world.is_main else nullcontext():
            yield

    def write(self, name: str, **tensors: Tensor) -> None:
        """Write one batch, a row of each tensor per item.

        Raises ValueError for a row that is not finite, OSError if the disk refuses, and leaves nothing of the batch.
        """
        assert all(len(tensor) == len(self._items[name]) for tensor in tensors.values())
        items = [f"{self.folder.name}, item {item}" for item in self._items[name]]
        for key, tensor in tensors.items():
            require_finite_rows(tensor, items, f"its {key}")
        checksums = {f"{key}{_CHECKSUMS}": row_digests(tensor) for key, tensor in tensors.items()}
        write_tensors(self._path(name), tensors | checksums)

    def finish(self, world: World) -> None:
        """Wait for the other processes' batches. Raises OSError where they wrote them out of this one's sight."""
        world.barrier()
        if absent := self.missing():
            raise OSError(
                f"{self._path(absent[0])} is not there, expected it from another process: "
                "all of them have to see the same folder"
            )

    def keep_only(self) -> None:
        """Remove what the folder holds of other batches."""
        for path in self.folder.glob("*.safetensors"):
            if path.stem not in self._items:
                path.unlink()

    def rows(self, key: str, items: Sequence[int]) -> Tensor:
        """The rows of some items, in their order; best in ascending order, since each turn of files opens one.

        Raises DamagedError at a row that is not as it was written.
        """
        parts = []
        for name, group in itertools.groupby(items, lambda item: self._names[bisect_right(self._starts, item) - 1]):
            first = self.items(name).start
            parts += self._read(name, key, [slice(item - first, item - first + 1) for item in group])
        return torch.cat(parts)

    def all(self, key: str) -> Tensor:
        """Every row: for what is small. Raises DamagedError at a row that is not as it was written."""
        return torch.cat([part for name in self._names for part in self._read(name, key, [slice(None)])])

    def _read(self, name: str, key: str, parts: Sequence[slice]) -> list[Tensor]:
        path, read = self._path(name), []
        try:
            with safe_open(path, "pt") as file:
                rows, checksums = file.get_slice(key), file.get_slice(key + _CHECKSUMS)
                for part in parts:
                    read.append(rows[part])
                    if damaged_row(read[-1], checksums[part]) is not None:
                        raise DamagedError(f"{path}: {key} was changed or damaged after it was written")
        except (SafetensorError, DamagedError) as error:
            reason = str(error).removeprefix(f"{path}: ")
            raise DamagedError(f"{path}: {reason}; remove the file, and the same command computes it again") from None
        return read

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.safetensors"

    def _is_whole(self, name: str) -> bool:
        """Whether a batch is there, by its names; its rows are compared when they are read."""
        path = self._path(name)
        try:
            with safe_open(path, "pt") as file:
                names = set(file.keys())
        except FileNotFoundError:
            return False
        except SafetensorError as error:  # for one that a failing disk cut off
            logger.warning("%s is damaged and is computed again: %s", path, error)
            return False
        keys = {name for name in names if not name.endswith(_CHECKSUMS)}
        if whole := names == keys | {key + _CHECKSUMS for key in keys}:
            return whole
        logger.warning("%s is damaged, or of an earlier version without checksums, and is computed again", path)
        return False
