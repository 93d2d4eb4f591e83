"""Tensors that are cut by rows into pieces, of which each process of a run writes one file and reads its own rows.

The files are those of torch's `HuggingFaceStorageWriter`. Each is a safetensors file, whose metadata say at which row
of a tensor each piece begins. A tensor that is held by every process is written whole by one of them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from safetensors import safe_open

from stgt.integrity import DamagedError

_CUTS = "DCP_SHARDING_INFO"


def is_sharded(tensor: torch.Tensor) -> bool:
    """Whether each process holds only some rows of this tensor, which is a DTensor then, as after `fully_shard`."""
    return hasattr(tensor, "to_local")  # importing DTensor would take time in every command


def local_rows(tensor: torch.Tensor) -> torch.Tensor:
    """The rows of a tensor that this process holds, in the same memory."""
    return tensor.detach().to_local() if is_sharded(tensor) else tensor.detach()


def write_shards(folder: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    """Write tensors of which each process holds some rows. Every process must call this.

    Raises OSError in all of them if one cannot write.
    """
    from torch.distributed.checkpoint import CheckpointException, HuggingFaceStorageWriter, save

    try:
        save(dict(tensors), storage_writer=HuggingFaceStorageWriter(str(folder), save_distributed=True))
    except CheckpointException as error:
        rank, (cause, _) = min(error.failures.items())
        raise OSError(f"process {rank} could not write its share of {folder.name}: {cause}") from error


class StoredTensors:
    """The tensors of one or several safetensors files. They are read when they are asked for.

    Raises DamagedError if the first rows of a tensor, or rows between its pieces, are in none of the files.
    """

    def __init__(self, place: Path, files: Iterable[Path]) -> None:
        """place: the only file, or the folder of all files, which messages name."""
        self.place = place
        self._pieces: dict[str, list[tuple[int, safe_open]]] = {}
        for path in files:
            file = safe_open(path, framework="pt")
            cuts = json.loads((file.metadata() or {}).get(_CUTS, "{}"))
            for name in file.keys():  # noqa: SIM118  (it is no dictionary)
                first = cuts[name]["saved_offsets"][:1] if name in cuts else []
                self._pieces.setdefault(name, []).append((first[0] if first else 0, file))
        for name, pieces in self._pieces.items():
            pieces.sort(key=lambda piece: piece[0])
            _require_all_rows(name, pieces)

    @property
    def names(self) -> set[str]:
        return set(self._pieces)

    def described(self, name: str) -> torch.Tensor:
        """A tensor without data that has the shape and the dtype of a stored tensor."""
        first, file = self._pieces[name][-1]
        shape = file.get_slice(name).get_shape()
        dtype = (file.get_slice(name)[:0] if shape else file.get_tensor(name)).dtype
        return torch.empty([first + shape[0], *shape[1:]] if shape else (), dtype=dtype, device="meta")

    def read(self, name: str) -> torch.Tensor:
        """A whole tensor, on the CPU."""
        pieces = [file.get_tensor(name) for _, file in self._pieces[name]]
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces)

    def read_rows_of(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
        """Those rows of a stored tensor that this process holds of `tensor`, on the CPU. Both have the same shape."""
        if not is_sharded(tensor):
            return self.read(name)
        share = -(-tensor.shape[0] // tensor.device_mesh.size())  # rows are cut as by torch.chunk
        first = min(tensor.device_mesh.get_local_rank() * share, tensor.shape[0])
        last = first + len(local_rows(tensor))
        rows = []
        for begin, file in self._pieces[name]:
            part = file.get_slice(name)
            end = begin + part.get_shape()[0]
            if max(begin, first) < min(end, last):
                rows.append(part[max(begin, first) - begin : min(end, last) - begin])
        return torch.cat(rows) if rows else torch.empty_like(local_rows(tensor), device="cpu")


def _require_all_rows(name: str, pieces: list[tuple[int, safe_open]]) -> None:
    end = 0
    for first, file in pieces:
        if first > end:
            raise DamagedError(f"rows {end} to {first - 1} of {name} are missing")
        end = first + (file.get_slice(name).get_shape() or [1])[0]
