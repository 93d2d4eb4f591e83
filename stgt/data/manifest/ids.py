"""Checks that no two questions of a manifest have the same id. This module needs the extra [scale]."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from stgt.data.video_table import digests_of


class QuestionIds:
    """The ids of the questions that were added. Each takes 24 bytes, and 112 while they are compared."""

    def __init__(self, path: str | Path, column: str) -> None:
        """path, column: the manifest and the name of its column of ids, for the error."""
        self.path, self.column = path, column
        self._digests: list[np.ndarray] = []
        self._rows: list[np.ndarray] = []

    def add(self, ids: pa.ListArray, rows: pa.Int64Array) -> None:
        """ids: those of each row. rows: the numbers of the rows in the file."""
        self._digests.append(digests_of(ids.flatten().to_pylist()))
        self._rows.append(np.repeat(rows.to_numpy(), pc.list_value_length(ids).to_numpy()))

    def require_distinct(self) -> None:
        """Raise ValueError that names the first row with an id that an earlier question has."""
        if not self._digests:
            return
        digests, rows = np.concatenate(self._digests), np.concatenate(self._rows)
        _, first = np.unique(digests, return_index=True)
        if len(first) < len(digests):
            row = int(rows[np.setdiff1d(np.arange(len(digests)), first)[0]])
            raise ValueError(f"{self.path}: row {row}: {self.column!r} holds the id of an earlier question")
