"""The rows of a manifest, mapped into memory from an Arrow file. A process needs memory only for the rows it reads."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from stgt.data.entries import Question
from stgt.data.names import is_image
from stgt.data.shards.member import Member, locate, opened
from stgt.ownership import PathUse

if TYPE_CHECKING:
    import pyarrow as pa


Kind = Literal["captions", "questions"]
"""The columns of a manifest that are read: captions of its videos, or questions about them"""
_ASKED = ("questions", "answers", "question_ids")


class Row(NamedTuple):
    """One video. `video` is a file relative to the folder of videos or, with a shard, a member of this tar file."""

    video: str
    shard: str | None
    offset: int | None
    size: int | None
    image: bool

    @property
    def name(self) -> str:
        """The name that reports and lists of bad videos use."""
        return self.video if self.shard is None else f"{self.shard}/{self.video}"

    @property
    def place(self) -> str:
        """The text by which a feature cache knows the video: its file's name, or shard, offset and size of a member.

        Two members may have the same name. A kind, image or video, that the place does not imply is a part of it.
        """
        place, kind = self.video, is_image(self.video)
        if self.shard is not None:
            place, kind = f"{self.shard}\0{self.offset}\0{self.size}", False
        return place if self.image == kind else f"{place}\0{'image' if self.image else 'video'}"

    @property
    def described(self) -> str:
        """The name, with the offset of a member of a shard."""
        return self.name if self.shard is None else f"{self.name} at offset {self.offset}"


class Manifest(Sequence[str]):
    """The rows of a manifest as a sequence of the videos' names. It is pickled as two paths."""

    def __init__(self, annotation: str, file: str) -> None:
        """annotation: the manifest. file: the Arrow file that `stgt.data.manifest.cache` made of it."""
        import pyarrow as pa

        self.annotation, self.file = annotation, file
        self._use = PathUse(Path(file))  # nobody removes the file meanwhile: readers that start later open it, too
        self._use.share()
        reader = pa.ipc.open_file(pa.memory_map(file))
        with suppress(OSError):  # the file may belong to another user
            os.utime(file)  # this notes the use, since files that nobody has used for long are removed
        self.batches: list[pa.RecordBatch] = [reader.get_batch(i) for i in range(reader.num_record_batches)]
        """The rows in parts, in the form of one of `stgt.data.manifest.columns.SCHEMAS`"""
        self.asks = "questions" in reader.schema.names
        """Whether it holds questions in place of captions"""
        self._offsets = [batch.column(self._texts).offsets.to_numpy() for batch in self.batches]
        """Where the captions or questions of each row begin, int32 (rows + 1,) for each batch"""
        self._rows = np.cumsum([0, *map(len, self.batches)])
        self._pairs = np.cumsum([0, *(offsets[-1] - offsets[0] for offsets in self._offsets)])
        self.whole = int(reader.schema.metadata[b"rows"])
        """Number of rows of the Parquet file"""

    def __reduce__(self) -> tuple:
        return Manifest, (self.annotation, self.file)

    def __repr__(self) -> str:
        return f"Manifest({self.annotation!r}, {self.file!r})"

    def __len__(self) -> int:
        return int(self._rows[-1])

    def __getitem__(self, number: int) -> str:
        return self.row(number).name

    def __iter__(self) -> Iterator[str]:
        for batch in self.batches:
            yield from names_of(batch.column("video"), batch.column("shard")).to_pylist()

    def row(self, number: int) -> Row:
        batch, place = self._place(number)
        return Row(*(batch.column(name)[place].as_py() for name in Row._fields))

    def still(self, number: int) -> bool:
        """Whether a row is about an image of one frame."""
        batch, place = self._place(number)
        return batch.column("image")[place].as_py()

    def kinds(self) -> set[bool]:
        """Whether there are images of one frame (True), and whether there are videos (False)."""
        return {kind for batch in self.batches for kind in batch.column("image").unique().to_pylist()}

    def places(self) -> Iterator[str]:
        """`Row.place` of each row."""
        for batch in self.batches:
            for row in zip(*(batch.column(name).to_pylist() for name in Row._fields), strict=True):
                yield Row(*row).place

    def place(self, number: int) -> str:
        """`Row.place` of a row."""
        return self.row(number).place

    def described(self, number: int) -> str:
        """`Row.described` of a row."""
        return self.row(number).described

    def identity(self, number: int) -> str:
        """The name by which a row's video is compared with others: the one that it had before it was packed."""
        batch, place = self._place(number)
        return batch.column("packed_from")[place].as_py() or self[number]

    def identities(self) -> Iterator[str]:
        """`identity` of each row."""
        import pyarrow.compute as pc

        for batch in self.batches:
            names = names_of(batch.column("video"), batch.column("shard"))
            yield from pc.coalesce(batch.column("packed_from"), names).to_pylist()

    @contextmanager
    def opened(self, number: int, root: str | Path) -> Iterator[Path]:
        """The file of a row's video, which is a temporary one if the video is in a shard.

        A VideoError of the block names the shard, the offset and the member. Raises one if the shard cannot be read.
        """
        row = self.row(number)
        if row.shard is None:
            yield Path(root) / row.video
        else:
            with opened(Member(locate(row.shard, root), row.offset, row.size, row.video)) as path:
                yield path

    def files(self) -> list[str]:
        """The files that a fingerprint compares beside the manifest: the shards, which are fewer than the videos."""
        return self.shards()

    def shards(self) -> list[str]:
        """The distinct shards, in alphabetical order."""
        found = set()
        for batch in self.batches:
            found.update(batch.column("shard").unique().to_pylist())
        return sorted(found - {None})

    def single_files(self) -> Iterator[str]:
        """The videos that are not in a shard."""
        for batch in self.batches:
            yield from batch.column("video").filter(batch.column("shard").is_null()).to_pylist()

    @property
    def left_out(self) -> int:
        """Number of rows that are bad, or listed as bad."""
        return self.whole - len(self)

    @property
    def pairs(self) -> Pairs:
        """Pairs of a row's number and one of its captions or questions."""
        return Pairs(self)

    @cached_property
    def images(self) -> Tensor:
        """For each pair, whether it is about an image of one frame: bool (pairs,)."""
        kinds = [
            np.repeat(batch.column("image").to_numpy(zero_copy_only=False), np.diff(offsets))
            for batch, offsets in zip(self.batches, self._offsets, strict=True)
        ]
        return torch.from_numpy(np.concatenate(kinds))

    @property
    def _texts(self) -> Kind:
        return "questions" if self.asks else "captions"

    def said(self) -> Iterator[list[str]] | Iterator[list[Question]]:
        """The captions of each row, or its questions."""
        if not self.asks:
            for batch in self.batches:
                yield from batch.column("captions").to_pylist()
            return
        videos = self.identities()
        for batch in self.batches:
            for row in zip(*(batch.column(name).to_pylist() for name in _ASKED), strict=True):
                video = next(videos)
                questions, answers, ids = row
                yield [Question(video, *one) for one in zip(questions, answers, map(decoded_id, ids), strict=True)]

    def answers(self) -> Iterator[str]:
        """The answer to each question."""
        for batch in self.batches:
            yield from batch.column("answers").flatten().to_pylist()

    def _place(self, number: int) -> tuple[pa.RecordBatch, int]:
        batch = _batch_of(number, self._rows)
        return self.batches[batch], int(number - self._rows[batch])

    def count_pairs(self) -> int:
        return int(self._pairs[-1])

    def pair(self, number: int) -> tuple[int, str | Question]:
        """The row and the caption, or the question, of a pair. The video of a question has its name before packing."""
        batch = _batch_of(number, self._pairs)
        offsets = self._offsets[batch]
        place = int(number - self._pairs[batch] + offsets[0])
        row = int(self._rows[batch] + np.searchsorted(offsets, place, side="right") - 1)
        if not self.asks:
            return row, self.batches[batch].column("captions").values[place].as_py()
        place = int(number - self._pairs[batch])
        question, answer, identity = (self.batches[batch].column(name).flatten()[place].as_py() for name in _ASKED)
        return row, Question(self.identity(row), question, answer, decoded_id(identity))


class Pairs(Sequence[tuple[int, str | Question]]):
    """Every caption or question of a manifest with the number of its row."""

    def __init__(self, manifest: Manifest) -> None:
        self.manifest = manifest

    def __len__(self) -> int:
        return self.manifest.count_pairs()

    def __getitem__(self, number: int | slice) -> tuple[int, str | Question] | list[tuple[int, str | Question]]:
        if isinstance(number, slice):
            return [self.manifest.pair(each) for each in range(*number.indices(len(self)))]
        return self.manifest.pair(number)

    def __iter__(self) -> Iterator[tuple[int, str | Question]]:
        for row, texts in enumerate(self.manifest.said()):
            for text in texts:
                yield row, text


def decoded_id(text: str) -> int | str:
    """The id of a question from its form in an Arrow file, "n7" for the number 7 and "t7" for the text."""
    return int(text[1:]) if text[0] == "n" else text[1:]


def names_of(video: pa.StringArray, shard: pa.StringArray) -> pa.StringArray:
    """`Row.name` of many rows."""
    import pyarrow.compute as pc

    return pc.coalesce(pc.binary_join_element_wise(shard, video, "/"), video)


def _batch_of(number: int, ends: np.ndarray) -> int:
    if not 0 <= number < ends[-1]:
        raise IndexError(f"number is {number}, expected 0 to {ends[-1] - 1}")
    return int(np.searchsorted(ends, number, side="right")) - 1
