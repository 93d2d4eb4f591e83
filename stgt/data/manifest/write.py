"""Writes manifests. This module needs the extra [scale]."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from stgt.data.annotations import load_captions
from stgt.data.manifest.columns import BATCH, SCHEMA
from stgt.files import atomic_file


def write_manifest(annotation: str | Path, out: str | Path) -> int:
    """Write a retrieval annotation in JSON as a manifest; returns its number of rows, one for each distinct video."""
    captions: dict[str, list[str]] = {}
    for clip in load_captions(annotation):
        captions.setdefault(clip.video, []).extend(clip.captions)
    with writing_manifest(out) as manifest:
        for video, texts in captions.items():
            manifest.add(video, texts)
    return manifest.count


def whole(text: str) -> str:
    """A text in which "?" takes the place of every half of a surrogate pair, because Parquet holds UTF-8 only."""
    return text.encode("utf-8", "replace").decode("utf-8")


class ManifestWriter:
    """Takes rows one after the other, and writes them in groups."""

    def __init__(self, writer: pq.ParquetWriter) -> None:
        self._writer, self._rows = writer, []
        self.count = 0
        """Number of rows that were added"""

    def add(
        self,
        video: str,
        captions: Sequence[str],
        *,
        shard: str | None = None,
        offset: int | None = None,
        size: int | None = None,
        image: bool | None = None,
        packed_from: str | None = None,
    ) -> None:
        """Add a row: a file, or a member of a shard whose bytes begin at `offset`.

        image: whether it is an image of one frame; if None, the ending of its name says it. packed_from: the name of
        the video before it was packed.
        """
        row = (video, shard, offset, size, list(captions), image, packed_from)
        self._rows.append(dict(zip(SCHEMA.names, row, strict=True)))
        self.count += 1
        if len(self._rows) == BATCH:
            self.flush()

    def add_rows(self, rows: pa.RecordBatch) -> None:
        """Add rows of the form SCHEMA."""
        self.flush()
        self._writer.write_batch(rows)
        self.count += len(rows)

    def flush(self) -> None:
        if self._rows:
            self._writer.write_batch(pa.RecordBatch.from_pylist(self._rows, SCHEMA))
            self._rows = []


@contextmanager
def writing_manifest(path: str | Path) -> Iterator[ManifestWriter]:
    """Yields a writer of a manifest, which is complete when the block ends, or absent if the block fails."""
    with atomic_file(path) as partial, pq.ParquetWriter(partial, SCHEMA, compression="zstd") as file:
        writer = ManifestWriter(file)
        yield writer
        writer.flush()
