"""Reads weight files of all known kinds as tensors under our names."""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from stgt.weights.names import HUGGING_FACE, RELEASED, Naming, recognise
from stgt.weights.tensors import read_tensors

logger = logging.getLogger(__name__)

WEIGHT_FILES = (".safetensors", ".pth", ".pt", ".ckpt", ".bin")

# Redundant tensors in released files. TIED maps a duplicate to the tensor that it must equal. POSITION_IDS is the name
# of a tensor that only counts from 0.
TIED = {
    "Qformer.cls.predictions.decoder.weight": "Qformer.bert.embeddings.word_embeddings.weight",
    "Qformer.cls.predictions.decoder.bias": "Qformer.cls.predictions.bias",
}
POSITION_IDS = "Qformer.bert.embeddings.position_ids"


class Source(NamedTuple):
    """A tensor, its file and its name in that file."""

    file: Path
    name: str
    """The tensor's name in the file"""
    tensor: Tensor


@dataclass(frozen=True)
class Weights:
    """The tensors of one or several files, under our names."""

    files: tuple[Path, ...]
    naming: Naming
    """The naming of the first file, which messages use"""
    sources: dict[str, Source]
    unknown: list[Source]
    """Tensors that are not expected in a file of its kind"""

    def __str__(self) -> str:
        return " and ".join(map(str, self.files))


def read_weights(paths: Sequence[str | Path], *, drop: Collection[str] = ()) -> Weights:
    """Read files of any known kind (names.py) that together make one model.

    drop: beginnings of names in the files to leave out; see `begins`. Raises ValueError for a file of unknown kind, a
    tensor that is in two files, tied tensors that differ, and a beginning in `drop` that matches no tensor.
    """
    naming, sources, unknown, left_out = None, {}, [], []
    for path in map(Path, paths):
        tensors = read_tensors(path)
        left_out += [name for name in tensors if begins(name, drop)]
        tensors = {name: tensor for name, tensor in tensors.items() if not begins(name, drop)}
        try:
            kind = recognise(tensors)
        except ValueError as error:
            raise ValueError(f"{path} {error}") from None
        naming = naming or kind
        if idle := [name for name in tensors if name.startswith(kind.unused)]:
            logger.info("%s: ignoring tensors that STGT does not use: %s", path, summary(idle, tensors.keys() - idle))
        for name, tensor in _plain(tensors, kind, path).items():
            source, ours = Source(path, name, tensor), kind.ours(name)
            if name.startswith(kind.unused):
                continue
            if ours is None:
                unknown.append(source)
            elif ours in sources:
                raise ValueError(f"{name} is in {path} and in {sources[ours].file}, expected in one of them")
            else:
                sources[ours] = source
    if vain := [group for group in drop if not any(begins(name, [group]) for name in left_out)]:
        raise ValueError(f"drop is {vain[0]!r}, but no tensor in the files has a name that begins with it")
    return Weights(tuple(map(Path, paths)), naming, sources, unknown)


def begins(name: str, beginnings: Iterable[str]) -> bool:
    """Whether a name has one of these beginnings. In a beginning, * stands for any text without a dot."""
    patterns = (re.escape(beginning).replace(r"\*", "[^.]*") for beginning in beginnings)
    return any(re.match(pattern, name) for pattern in patterns)


def summary(names: Iterable[str], others: Collection[str], most: int = 12) -> str:
    """A list of names as text. A long list shows the shortest beginnings that no other name has, with counts."""
    names = sorted(names)
    if len(names) <= most:
        return ", ".join(names)
    counts = Counter(_own_beginning(name, others) for name in names)
    return ", ".join(f"{name}* ({count})" if name.endswith(".") else name for name, count in counts.items())


def _own_beginning(name: str, others: Collection[str]) -> str:
    for end in re.finditer(r"\.", name):
        beginning = name[: end.end()]
        if not any(other.startswith(beginning) for other in others):
            return beginning
    return name


def _plain(tensors: dict[str, Tensor], kind: Naming, path: Path) -> dict[str, Tensor]:
    """Weights of a known naming without duplicates and with combined tensors split, as in our model."""
    if kind is RELEASED:
        for name, twin in TIED.items():
            if name in tensors and twin in tensors and not torch.equal(tensors[name], tensors[twin]):
                raise ValueError(f"{path}: {name} differs from {twin}, but this model has one tensor for both")
        return {name: tensor for name, tensor in tensors.items() if name != POSITION_IDS and name not in TIED}
    if kind is HUGGING_FACE:
        plain = {}
        for name, tensor in tensors.items():
            if name.endswith("self_attn.qkv.bias"):
                # This tensor holds the biases of queries, keys and values. A bias of keys adds the same number to all
                # scores of a query, which softmax cancels, so our model has none.
                query, _, value = tensor.chunk(3)
                before = name.removesuffix("qkv.bias")
                plain |= {before + "q_bias": query, before + "v_bias": value}
            else:
                plain[name] = tensor
        return plain
    return tensors
