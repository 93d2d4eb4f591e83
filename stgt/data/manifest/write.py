"""Writes manifests. This module needs the extra [scale]."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from stgt.data.annotations import load_said
from stgt.data.entries import Question
from stgt.data.manifest.cache import is_manifest
from stgt.data.manifest.columns import BATCH, PART, SCHEMAS
from stgt.files import atomic_file
from stgt.structure import shown

Texts = Sequence[str] | Sequence[Question]


def write_manifest(annotation: str | Path, out: str | Path) -> int:
    """Write an annotation in JSON as a manifest; returns its number of rows, one for each distinct video."""
    with writing_manifest(out) as manifest:
        for video, texts in said_of_videos(annotation).items():
            manifest.add(video, texts)
    return manifest.count


def said_of_videos(annotation: str | Path) -> dict[str, list[str]] | dict[str, list[Question]]:
    """The captions, or the questions, of each video of an annotation in JSON.

    Raises ValueError that names the entry if some ids of questions are numbers and some are texts, or one has no room.
    """
    said: dict[str, list] = {}
    for number, entry in enumerate(entries := load_said(annotation)):
        if isinstance(entry, Question):
            _require_id(annotation, number, entry.question_id, entries[0].question_id)
        said.setdefault(entry.video, []).extend([entry] if isinstance(entry, Question) else entry.captions)
    return said


def _require_id(annotation: str | Path, number: int, found: int | str, first: int | str) -> None:
    if isinstance(found, str) != isinstance(first, str) or not (isinstance(found, str) or -(2**63) <= found < 2**63):
        raise ValueError(
            f"{annotation}: in entry {number} 'question_id' is {shown(found)}, and {shown(first)} in entry 0; expected "
            "all to be texts, or all whole numbers below 2⁶³"
        )


def whole(text: str) -> str:
    """A text in which "?" takes the place of every half of a surrogate pair, because Parquet holds UTF-8 only."""
    return text.encode("utf-8", "replace").decode("utf-8")


class ManifestWriter:
    """Takes rows, and writes them in groups. The first row decides the columns of the file."""

    def __init__(self, path: Path) -> None:
        self._path, self._rows, self._letters = path, [], 0
        self._writer: pq.ParquetWriter | None = None
        self.count = 0
        """Number of rows that were added"""

    def add(
        self,
        video: str,
        texts: Texts,
        *,
        shard: str | None = None,
        offset: int | None = None,
        size: int | None = None,
        image: bool | None = None,
        packed_from: str | None = None,
    ) -> None:
        """Add a row: a file, or a member of a shard whose bytes begin at `offset`.

        texts: its captions or its questions. image: whether it is an image of one frame; if None, the ending of its
        name says it. packed_from: the name of the video before it was packed.
        """
        row = dict(video=video, shard=shard, offset=offset, size=size, image=image, packed_from=packed_from)
        said = _columns_of(texts)
        self._rows.append(row | said)
        self._letters += sum(len(text) for column in said.values() for text in column if isinstance(text, str))
        self.count += 1
        if len(self._rows) == BATCH or self._letters >= PART:
            self.flush()

    def add_rows(self, rows: pa.RecordBatch) -> None:
        """Add rows of captions whose columns are those of SCHEMAS["captions"]."""
        self.flush()
        self._written(rows.schema).write_batch(rows)
        self.count += len(rows)

    def flush(self) -> None:
        """Write the rows that wait. Raises ValueError for ids of questions that differ in kind from the first ones."""
        if not self._rows:
            return
        writer = self._written(_schema_of(self._rows[0]))
        try:
            rows = pa.RecordBatch.from_pylist(self._rows, writer.schema)
        except MemoryError:  # Arrow's own one is an ArrowException, too
            raise
        except (pa.ArrowException, TypeError, OverflowError) as error:
            raise ValueError(
                f"question_id: {error}, expected all to be texts, or all whole numbers below 2⁶³"
            ) from None
        writer.write_batch(rows)
        self._rows, self._letters = [], 0

    def close(self) -> None:
        """Write what is left. A manifest without rows is one of captions."""
        self.flush()
        self._written(SCHEMAS["captions"]).close()

    def _written(self, schema: pa.Schema) -> pq.ParquetWriter:
        if self._writer is None:
            self._writer = pq.ParquetWriter(self._path, schema, compression="zstd")
        return self._writer


def _schema_of(row: dict) -> pa.Schema:
    """The columns of a file whose first row is this one."""
    schema = SCHEMAS["questions" if "questions" in row else "captions"]
    if "questions" in row and all(isinstance(each, int) for each in row["question_ids"]):
        place = schema.get_field_index("question_ids")
        schema = schema.set(place, pa.field("question_ids", pa.list_(pa.int64())))
    return schema


def _columns_of(texts: Texts) -> dict[str, list]:
    if not isinstance(texts[0], Question):
        return {"captions": list(texts)}
    _, questions, answers, ids = (list(column) for column in zip(*texts, strict=True))
    return {"questions": questions, "answers": answers, "question_ids": ids}


@contextmanager
def writing_manifest(path: str | Path) -> Iterator[ManifestWriter]:
    """Yields a writer of a manifest, which is complete when the block ends, or absent if the block fails.

    Raises ValueError for a name without the ending by which a manifest is known: it would be read as JSON.
    """
    if not is_manifest(path):
        raise ValueError(f"{path}: the name of a manifest, expected one that ends in .parquet")
    with atomic_file(path) as partial:
        writer = ManifestWriter(partial)
        yield writer
        writer.close()
