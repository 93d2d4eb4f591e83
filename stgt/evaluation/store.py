"""Tensors with a row per item, computed and kept in batches: what is there is not computed again.

Each batch is a safetensors file that is there in full or not at all, so that a killed evaluation goes on where it was,
and processes that see one folder share its batches between them. Files are memory-mapped: reading some rows of some
items reads nothing else.
"""

from __future__ import annotations

import hashlib
import itertools
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from stgt.files import write_tensors
from stgt.ownership import owned
from stgt.training.distributed import World


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
        """Write one batch, a row of each tensor per item. Raises OSError, and leaves nothing, if the disk refuses."""
        assert all(len(tensor) == len(self._items[name]) for tensor in tensors.values())
        write_tensors(self._path(name), tensors)

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
        """The rows of some items, in their order; best in ascending order, since each turn of files opens one."""
        parts = []
        for name, group in itertools.groupby(items, lambda item: self._names[bisect_right(self._starts, item) - 1]):
            first = self.items(name).start
            with safe_open(self._path(name), "pt") as file:
                table = file.get_slice(key)
                parts += [table[item - first : item - first + 1] for item in group]
        return torch.cat(parts)

    def all(self, key: str) -> Tensor:
        """Every row: for what is small."""
        parts = []
        for name in self._names:
            with safe_open(self._path(name), "pt") as file:
                parts.append(file.get_tensor(key))
        return torch.cat(parts)

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.safetensors"

    def _is_whole(self, name: str) -> bool:
        try:
            with safe_open(self._path(name), "pt"):
                return True
        except (FileNotFoundError, SafetensorError):  # the latter for one that a failing disk cut off
            return False
