"""Keeps tensors with a row for each item in files, a batch in each, so that nothing is computed twice.

Each batch is a safetensors file that is complete or absent. A killed evaluation therefore goes on where it stopped, and
processes that see the same folder share its batches. Files are memory-mapped, so only the rows that are asked for are
read. Beside each tensor `key`, a file holds `key.sha256`, the checksums of the rows, and each row is compared with its
checksum when it is read.
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
    """A short name for given values: the beginning of the SHA-256 of the bytes of tensors and the repr of others."""
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
    """The names and sizes of the batches of `items` items. They do not depend on the number of processes."""
    return {f"{start // size:06}": min(size, items - start) for start in range(0, items, size)}


class Store:
    """A folder of batches. Its name should be a `digest` of everything that its tensors depend on."""

    def __init__(self, folder: Path, files: Mapping[str, int]) -> None:
        """files: the names of the batches and their numbers of items, in the order of the items."""
        self.folder, self._names = folder, list(files)
        self._starts = list(itertools.accumulate(files.values(), initial=0))
        self._items = {name: range(*ends) for name, ends in zip(files, itertools.pairwise(self._starts), strict=True)}

    def __len__(self) -> int:
        return self._starts[-1]

    def items(self, name: str) -> range:
        """The numbers of the items in a batch."""
        return self._items[name]

    def missing(self, world: World | None = None) -> list[str]:
        """The batches that are absent or damaged. Each of several processes gets its own share of them."""
        mine = self._names[world.rank :: world.size] if world else self._names
        return [name for name in mine if not self._is_whole(name)]

    @contextmanager
    def owned(self, world: World, names: Sequence[str]) -> Iterator[None]:
        """Lock the store for the block if there is any batch to write. names: the batches that this process will write.

        The main process holds the lock for all processes. Raises OwnedError if another command holds it.
        """
        needed = world.any(bool(names))
        with owned(self.folder) if needed and world.is_main else nullcontext():
            yield

    def write(self, name: str, **tensors: Tensor) -> None:
        """Write one batch. Each tensor has a row for each item.

        Raises ValueError for a row that is not finite, and OSError if the disk cannot be written. Nothing of the batch
        is then written.
        """
        assert all(len(tensor) == len(self._items[name]) for tensor in tensors.values())
        items = [f"{self.folder.name}, item {item}" for item in self._items[name]]
        for key, tensor in tensors.items():
            require_finite_rows(tensor, items, f"its {key}")
        checksums = {f"{key}{_CHECKSUMS}": row_digests(tensor) for key, tensor in tensors.items()}
        write_tensors(self._path(name), tensors | checksums)

    def finish(self, world: World) -> None:
        """Wait for the other processes' batches. Raises OSError if this process does not see them in the folder."""
        world.barrier()
        if absent := self.missing():
            raise OSError(
                f"{self._path(absent[0])}: there is no such file, expected it from another process; "
                "all processes have to see the same folder"
            )

    def keep_only(self) -> None:
        """Remove all files of other batches from the folder."""
        for path in self.folder.glob("*.safetensors"):
            if path.stem not in self._items:
                path.unlink()

    def rows(self, key: str, items: Sequence[int]) -> Tensor:
        """The rows of some items, in the given order. Ascending items are fastest, since each file is then opened once.

        Raises DamagedError if a row has changed since it was written.
        """
        parts = []
        for name, group in itertools.groupby(items, lambda item: self._names[bisect_right(self._starts, item) - 1]):
            first = self.items(name).start
            parts += self._read(name, key, [slice(item - first, item - first + 1) for item in group])
        return torch.cat(parts)

    def all(self, key: str) -> Tensor:
        """All rows of a tensor that fits into memory. Raises DamagedError if a row has changed since it was written."""
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
        """Whether a batch has a file with the right names. Its rows are compared when they are read."""
        path = self._path(name)
        try:
            with safe_open(path, "pt") as file:
                names = set(file.keys())
        except FileNotFoundError:
            return False
        except SafetensorError as error:  # a failing disk may have cut the file off
            logger.warning("%s is damaged, and is computed again: %s", path, error)
            return False
        keys = {name for name in names if not name.endswith(_CHECKSUMS)}
        if whole := names == keys | {key + _CHECKSUMS for key in keys}:
            return whole
        logger.warning("%s is damaged, or an earlier version wrote it without checksums; it is computed again", path)
        return False
