"""Keeps tensors that have a row for each item in files, so that nothing is computed twice.

Feature caches, evaluation and search use it. The items are divided into batches, and each batch is a safetensors file
that is complete or absent. A killed command therefore goes on where it stopped. A batch is locked while it is computed,
so that commands which fill the same folder at the same time share the work. Files are memory-mapped, so only the rows
that are asked for are read. Beside each tensor `key`, a file holds `key.sha256`, the checksums of the rows. Each row is
compared with its checksum when it is read.
"""

from __future__ import annotations

import hashlib
import itertools
import logging
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from tqdm import tqdm

from stgt.data.batch_names import ListedBatches, NumberedBatches
from stgt.distributed import World
from stgt.files import write_tensors
from stgt.integrity import DamagedError, damaged_row, require_finite_rows, row_digests
from stgt.ownership import OwnedError, PathUse, claimed, clear_up

logger = logging.getLogger(__name__)

_CHECKSUMS = ".sha256"
_ABSENT = "there is no such file"

Batches = Generator[Mapping[str, Tensor] | None, None, None]
"""The tensors of batches, or None for a batch that cannot be computed"""


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


class Store:
    """A folder of batches. Its name should be a `digest` of everything that its tensors depend on."""

    def __init__(self, folder: Path, files: Mapping[str, int] | NumberedBatches) -> None:
        """files: the names of the batches and their numbers of items, in the order of the items."""
        self.folder = folder
        self.names = files if isinstance(files, NumberedBatches) else ListedBatches(files)
        """The names of the batches, each with the numbers of its items"""
        self._use: PathUse | None = None

    def __len__(self) -> int:
        return self.names.items_in_all

    def path(self, name: str) -> Path:
        """The file of a batch."""
        return self.folder / f"{name}.safetensors"

    def items(self, name: str) -> range:
        """The numbers of the items in a batch."""
        return self.names[name]

    def missing(self, world: World | None = None) -> list[str]:
        """The batches that are absent or damaged. Each of several processes gets its own share of them."""
        mine = itertools.islice(self.names, world.rank, None, world.size) if world else self.names
        return [name for name in mine if self.fault(name)]

    def fault(self, name: str) -> str | None:
        """Why a batch has to be computed, or None if it is there. Rows are only checked when they are read."""
        try:
            with safe_open(self.path(name), "pt") as file:
                names = set(file.keys())
        except FileNotFoundError:
            return _ABSENT
        except SafetensorError as error:  # a failing disk may have cut the file off
            return f"it is damaged: {error}"
        keys = {name for name in names if not name.endswith(_CHECKSUMS)}
        if names == keys | {key + _CHECKSUMS for key in keys}:
            return None
        return "it is damaged, or an earlier version wrote it without checksums"

    def fill(
        self,
        compute: Callable[[Iterator[str]], Batches],
        world: World | None = None,
        *,
        missing: list[str] | None = None,
        what: str = "",
    ) -> None:
        """Compute the missing batches, and write each one as soon as it is computed.

        compute: a function from names of batches to their tensors, in the same order. It is called again if batches are
            still missing. A batch is locked from the moment when `compute` takes its name until its tensors are
            written, so it should take a name only when it needs it. Other commands compute the batches that are not
            locked, and each batch is computed only once.
        world: the processes of this command, each of which computes its share.
        missing: what `missing` has just returned, if the caller knows it.
        what: the title of the progress bar.
        Returns when every batch that can be computed is there, also those of other commands. Raises the errors of
        `compute` and `write`, and OSError if this process does not see the batches of the others. Batches that were
        written before an error are kept.
        """
        missing = self.missing(world) if missing is None else missing
        quiet = len(missing) < 8 or not (world is None or world.is_main)
        with tqdm(desc=what, total=len(missing), unit="file", disable=quiet) as bar:
            while missing:
                done = self._compute(compute, missing, bar)
                if not done:
                    with claimed(self.path(missing[0]), wait=True):  # the other command computes it meanwhile, or ends
                        pass
                missing = [name for name in missing if name not in done and self.fault(name)]
        clear_up(self.folder)
        if world is not None:
            world.barrier()
            if absent := self.missing():
                raise OSError(
                    f"{self.path(absent[0])}: {self.fault(absent[0])}, expected it from another process; "
                    "all processes have to see the same folder"
                )

    def _compute(self, compute: Callable[[Iterator[str]], Batches], missing: Sequence[str], bar: tqdm) -> set[str]:
        """Compute the batches that no other command is computing. Returns their names."""
        held: deque[tuple[str, ExitStack]] = deque()
        done = set()
        names = self._claim(missing, held)
        try:
            first = next(names, None)
            if first is None:
                return done
            with closing(compute(itertools.chain([first], names))) as results:
                for tensors in results:
                    name, lock = held[0]
                    if tensors is not None:
                        self.write(name, **tensors)
                    done.add(name)
                    held.popleft()
                    lock.close()
                    bar.update()
            assert not held
        finally:
            for _, lock in held:
                lock.close()
        return done

    def _claim(self, names: Sequence[str], held: deque[tuple[str, ExitStack]]) -> Iterator[str]:
        """The batches that no other command computes. The lock of each is added to `held` when its name is taken."""
        for name in names:
            with ExitStack() as lock:
                try:
                    lock.enter_context(claimed(self.path(name)))
                except OwnedError:
                    continue
                if (fault := self.fault(name)) is None:  # another command has just written it
                    continue
                held.append((name, lock.pop_all()))
            if fault != _ABSENT:
                logger.warning("%s is computed again: %s", self.path(name), fault)
            yield name

    def write(self, name: str, **tensors: Tensor) -> None:
        """Write one batch. Each tensor has a row for each item.

        Raises ValueError for a row that is not finite, and OSError if the disk cannot be written. Nothing of the batch
        is then written.
        """
        assert all(len(tensor) == len(self.names[name]) for tensor in tensors.values())
        items = [f"{self.folder.name}, item {item}" for item in self.names[name]]
        for key, tensor in tensors.items():
            require_finite_rows(tensor, items, f"its {key}")
        checksums = {f"{key}{_CHECKSUMS}": row_digests(tensor) for key, tensor in tensors.items()}
        write_tensors(self.path(name), tensors | checksums)

    def keep_only(self) -> None:
        """Remove all files of other batches from the folder, unless another command uses the folder in the same way.

        From then on, as long as this object or one from `part` exists, no other command removes batches.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        self._use = PathUse(self.folder)
        if self._use.alone():
            for path in self.folder.glob("[!.]*.safetensors"):
                if path.stem not in self.names:
                    path.unlink(missing_ok=True)
        self._use.share()

    def part(self, names: Sequence[str]) -> Store:
        """A store of some of the batches."""
        part = Store(self.folder, {name: len(self.names[name]) for name in names})
        part._use = self._use
        return part

    def rows(self, key: str, items: Sequence[int]) -> Tensor:
        """The rows of some items, in the given order. Ascending items are fastest, since each file is then opened once.

        Raises DamagedError if a row has changed since it was written.
        """
        parts = []
        for name, group in itertools.groupby(items, self.names.holding):
            first = self.items(name).start
            parts += self._read(name, [(key, slice(item - first, item - first + 1)) for item in group])
        return torch.cat(parts)

    def row(self, keys: Sequence[str], item: int) -> list[Tensor]:
        """The row of one item in each of several tensors. Raises DamagedError as `rows` does."""
        name = self.names.holding(item)
        place = item - self.items(name).start
        read = self._read(name, [(key, slice(place, place + 1)) for key in keys])
        return [part[0].clone() for part in read]  # a copy, because the file may be written again

    def all(self, key: str) -> Tensor:
        """All rows of a tensor that fits into memory. Raises DamagedError if a row has changed since it was written."""
        return torch.cat([part for name in self.names for part in self._read(name, [(key, slice(None))])])

    def summaries(self, key: str, whole: str) -> Iterator[tuple[Tensor, Tensor]]:
        """The checksums of the rows of the tensor `key`, uint8 (rows, 32), and the tensor `whole`, for each batch.

        Both are returned as they were written, and nothing is compared.
        """
        for name in self.names:
            with safe_open(self.path(name), "pt") as file:
                yield file.get_tensor(key + _CHECKSUMS), file.get_tensor(whole)

    def _read(self, name: str, parts: Sequence[tuple[str, slice]]) -> list[Tensor]:
        """Parts of a batch, each given by the name of its tensor and by its rows."""
        path, read = self.path(name), []
        try:
            with safe_open(path, "pt") as file:
                for key, part in parts:
                    if (rows := file.get_slice(key).get_shape()[0]) != len(self.names[name]):
                        raise DamagedError(f"{path}: {key} has {rows} rows, expected {len(self.names[name])}")
                    read.append(file.get_slice(key)[part])
                    if damaged_row(read[-1], file.get_slice(key + _CHECKSUMS)[part]) is not None:
                        raise DamagedError(f"{path}: {key} was changed or damaged after it was written")
        except FileNotFoundError:
            raise DamagedError(f"{path}: {_ABSENT}; the command that wrote it computes it again") from None
        except (SafetensorError, DamagedError) as error:
            reason = str(error).removeprefix(f"{path}: ")
            raise DamagedError(
                f"{path}: {reason}; remove the file, and the command that wrote it computes it again"
            ) from None
        return read
