"""The columns of a manifest, checked and in one form, whichever program wrote the Parquet file.

A row is a video. Its columns are video (text), captions (list of texts) or caption (text), and, if the video lies in a
tar shard, shard (text), offset and size (whole numbers, in bytes). The columns image and bad (true or false) and
packed_from (text) may be there as well. In place of captions there may be questions, answers and question_ids (lists of
the same lengths; ids are texts or whole numbers), or question, answer and question_id for one question. Further columns
are left alone. This module needs the extra [scale].
"""

from __future__ import annotations

import itertools
import re
import tarfile
from collections.abc import Collection, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from stgt.causes import first_line
from stgt.data.manifest.ids import QuestionIds
from stgt.data.manifest.rows import Kind, names_of
from stgt.data.names import IMAGES
from stgt.paths import no_such_file
from stgt.structure import shown

_PLACE = {"video": pa.string(), "shard": pa.string(), "offset": pa.int64(), "size": pa.int64()}
_ABOUT = {"image": pa.bool_(), "packed_from": pa.string()}
TEXTS: dict[Kind, dict[str, str]] = {
    "captions": {"captions": "caption"},
    "questions": {"questions": "question", "answers": "answer", "question_ids": "question_id"},
}
"""The columns of texts of each kind, with the names that they have in a file with one text for each row"""
SCHEMAS = {
    kind: pa.schema(_PLACE | dict.fromkeys(names, pa.list_(pa.string())) | _ABOUT) for kind, names in TEXTS.items()
}
"""The columns of an Arrow file. Ids of questions have the form that `stgt.data.manifest.rows.decoded_id` reads."""
BATCH = 1 << 16
"""The most rows that are in memory at a time"""
PART = 1 << 26
"""Bytes, or letters, of texts that are in memory at a time, since Arrow does not take lists with 2 GiB of texts"""
_ENDINGS = "|".join(re.escape(ending) for ending in IMAGES)
_IS_IMAGE = rf"(?i)(?:{_ENDINGS}|\.|(?:^|/)\.?[^./]*)$"  # this decides as `stgt.data.names.is_image` does


class ManifestFile:
    """A Parquet file that is read as a manifest, a part at a time."""

    def __init__(self, path: str | Path, kind: Kind | None = None) -> None:
        """Open a file. Raises ValueError that names the file, and the column if one is missing or has another type.

        kind: what is wanted of it; by default captions, unless there are none and there are questions.
        """
        self.path = path
        try:
            self._file = pq.ParquetFile(path, pre_buffer=False)
        except FileNotFoundError:
            raise ValueError(no_such_file(path)) from None
        except MemoryError:  # Arrow's own one is an ArrowException, too
            raise
        except (pa.ArrowException, OSError) as error:
            raise ValueError(f"{path}: not a Parquet file ({first_line(error)})") from None
        self.rows = self._file.metadata.num_rows
        self.kind = kind or self._found_kind()
        self._types = self._column_types()

    def _column_types(self) -> dict[str, pa.DataType]:
        """The type of each column that is used.

        A column of nulls, which pandas writes if no row has a value, counts as absent.
        """
        schema, plural = self._file.schema_arrow, TEXTS[self.kind]
        for name in (*SCHEMAS[self.kind].names, *plural.values(), "bad"):
            if schema.names.count(name) > 1:
                raise ValueError(f"{self.path}: there are several columns {name!r}, expected one")
        types = {field.name: field.type for field in schema if not pa.types.is_null(field.type)}
        texts = [*plural] if next(iter(plural)) in types else [*plural.values()]
        expected = {
            "video": (_is_text, "texts"),
            **dict.fromkeys(texts, (_is_captions, "texts or lists of texts")),
            "shard": (_is_text, "texts"),
            "offset": (_is_number, "whole numbers"),
            "size": (_is_number, "whole numbers"),
            "image": (pa.types.is_boolean, "true or false"),
            "bad": (pa.types.is_boolean, "true or false"),
            "packed_from": (_is_text, "texts"),
        }
        if texts[-1].startswith("question_id"):
            expected[texts[-1]] = (_is_ids, "texts or whole numbers, or lists of them")
        needed = ["video", *texts, *(["offset", "size"] if "shard" in types else [])]
        plural_of = {"caption": "captions", "question": "questions"}
        for name in needed:
            if name not in types:
                there = ", ".join(schema.names)
                name = plural_of.get(name, name)
                raise ValueError(f"{self.path}: there is no column {name!r} with values, only {there}")
        for name, (fits, described) in expected.items():
            if name in types and not fits(types[name]):
                raise ValueError(f"{self.path}: column {name!r} holds {types[name]}, expected {described}")
        return {name: types[name] for name in expected if name in types}

    def _found_kind(self) -> Kind:
        there = {field.name for field in self._file.schema_arrow if not pa.types.is_null(field.type)}
        captions, questions = ({*names, *names.values()} & there for names in TEXTS.values())
        return "questions" if questions and not captions else "captions"

    def batches(self, left_out: Collection[str] = frozenset()) -> Iterator[pa.RecordBatch]:
        """The rows in parts of the form SCHEMAS[kind], without nulls in image.

        Rows that are marked as bad are left out, and those whose name is in `left_out`: "shard/video", or "video" for a
        video in a file of its own. Raises ValueError that names the file, the row and the column of a wrong value.
        """
        column = "question_ids" if "question_ids" in self._types else "question_id"
        start, ids = 0, QuestionIds(self.path, column)
        try:
            for batch in self._parts():
                rows = _Rows(self.path, self.kind, start, batch)
                start += len(batch)
                checked = rows.checked(left_out)
                if self.kind == "questions" and len(checked):
                    ids.add(checked.column("question_ids"), rows.numbers)
                yield checked
            ids.require_distinct()
        except MemoryError:
            raise
        except (pa.ArrowException, OSError) as error:
            raise ValueError(f"{self.path}: the file is damaged near row {start} ({first_line(error)})") from None

    def _parts(self) -> Iterator[pa.RecordBatch]:
        """The columns that are used, BATCH rows at a time, and fewer rows where the texts are long."""
        for rows, groups in itertools.groupby(range(self._file.num_row_groups), self._rows_at_a_time):
            yield from self._parts_of([*groups], rows)

    def _parts_of(self, groups: list[int], most: int, given: int = 0) -> Iterator[pa.RecordBatch]:
        """The rows of row groups, at most `most` at a time, without the first `given` ones.

        A file may store a text once that many rows have, and not tell how long the texts of its rows are. Arrow then
        refuses lists with 2 GiB of them, and fewer rows are read at a time.
        """
        read = 0
        try:
            for batch in self._file.iter_batches(most, groups, columns=[*self._types], use_threads=False):
                read += len(batch)
                if read > given:
                    yield batch.slice(max(0, len(batch) - (read - given)))
        except pa.ArrowNotImplementedError:
            if most == 1:
                raise
            yield from self._parts_of(groups, max(1, most // 8), max(given, read))

    def _rows_at_a_time(self, group: int) -> int:
        """The most rows of a row group that take about PART bytes."""
        about = self._file.metadata.row_group(group)
        columns = (about.column(number) for number in range(about.num_columns))
        used = [column for column in columns if column.path_in_schema.partition(".")[0] in self._types]
        size = sum(column.total_uncompressed_size for column in used)
        return max(1, min(BATCH, PART * about.num_rows // max(1, size)))


class _Rows:
    """Some rows of a file."""

    def __init__(self, path: str | Path, kind: Kind, start: int, batch: pa.RecordBatch) -> None:
        self.kind = kind
        self.path, self.numbers = path, pa.array(range(start, start + len(batch)), pa.int64())
        self.columns = {name: batch.column(name) for name in batch.schema.names}

    def checked(self, left_out: Collection[str]) -> pa.RecordBatch:
        if "bad" in self.columns:
            self._keep(pc.invert(self._bool("bad", False)))
        video, shard = self._text("video"), self._text("shard")
        if left_out:
            kept = pc.invert(pc.is_in(names_of(video, shard), pa.array(sorted(left_out), pa.string())))
            self._keep(kept)
            video, shard = video.filter(kept), shard.filter(kept)
        self._refuse("video", pc.fill_null(_is_blank(video), True), "a text")
        self._refuse("shard", pc.fill_null(_is_blank(shard), False), "a text, or null")
        in_shard = pc.is_valid(shard)
        places = [self._place(name, in_shard, least) for name, least in (("offset", tarfile.BLOCKSIZE), ("size", 1))]
        image = self._bool("image", None)
        image = pc.coalesce(image, pc.match_substring_regex(video, _IS_IMAGE))
        packed_from = self._text("packed_from")
        packed_from = pc.if_else(_is_blank(packed_from), None, packed_from)
        columns = [video, shard, *places, *self._said(), image, packed_from]
        return pa.RecordBatch.from_arrays(columns, schema=SCHEMAS[self.kind])

    def _keep(self, kept: pa.BooleanArray) -> None:
        if kept.true_count < len(kept):
            self.columns = {name: column.filter(kept) for name, column in self.columns.items()}
            self.numbers = self.numbers.filter(kept)

    def _text(self, name: str) -> pa.StringArray:
        if name not in self.columns:
            return pa.nulls(len(self.numbers), pa.string())
        return self._valid(name, self.columns[name].cast(pa.string()))

    def _bool(self, name: str, default: bool | None) -> pa.BooleanArray:
        column = self.columns.get(name, pa.nulls(len(self.numbers), pa.bool_()))
        return column if default is None else pc.fill_null(column, default)

    def _place(self, name: str, in_shard: pa.BooleanArray, least: int) -> pa.Int64Array:
        """Offset or size; null where there is no shard."""
        column = self.columns.get(name, pa.nulls(len(self.numbers), pa.int64()))
        column = pc.if_else(in_shard, column, pa.scalar(None, column.type))
        wrong = pc.fill_null(pc.less(column, least), in_shard)
        if pa.types.is_floating(column.type):  # pandas turns whole numbers with gaps into floating-point ones
            wrong = pc.or_(wrong, pc.fill_null(pc.not_equal(column, pc.round(column)), False))
            wrong = pc.or_(wrong, pc.fill_null(pc.invert(pc.less(column, 2.0**63)), False))
        elif pa.types.is_uint64(column.type):
            wrong = pc.or_(wrong, pc.fill_null(pc.greater(column, 2**63 - 1), False))
        self._refuse(name, wrong, f"a whole number of at least {least}, because the row names a shard")
        return column.cast(pa.int64())

    def _said(self) -> list[pa.ListArray]:
        """The captions, or the questions with as many answers and ids."""
        names = [name if name in self.columns else one for name, one in TEXTS[self.kind].items()]
        lists = [self._ids(name) if name.startswith("question_id") else self._texts(name) for name in names]
        for name, column in zip(names[1:], lists[1:], strict=True):
            same = pc.equal(pc.list_value_length(column), pc.list_value_length(lists[0]))
            self._refuse(name, pc.invert(same), f"as many as there are {names[0]}")
        return lists

    def _ids(self, name: str) -> pa.ListArray:
        """Lists of ids in the form that the Arrow file has."""
        column = self.columns[name]
        lists = _is_list(column.type)
        values = column.type.value_type if lists else column.type
        mark, expected = ("t", "texts") if _is_text(values) else ("n", "whole numbers")
        text = pa.list_(pa.string()) if lists else pa.string()
        column = self._valid(name, column.cast(text))
        if not lists:
            self._refuse(name, column.is_null(), expected)
            column = pa.ListArray.from_arrays(pa.array(range(len(column) + 1), pa.int32()), column)
        self._refuse(name, pc.fill_null(pc.equal(pc.list_value_length(column), 0), True), f"a list of {expected}")
        self._refuse_within(name, column, column.flatten().is_null(), f"a list of {expected}")
        marked = pc.binary_join_element_wise(mark, column.flatten(), "")
        ends = np.concatenate([[0], np.cumsum(pc.list_value_length(column).to_numpy())])
        return pa.ListArray.from_arrays(pa.array(ends, pa.int32()), marked)

    def _refuse_within(self, name: str, lists: pa.ListArray, wrong: pa.BooleanArray, expected: str) -> None:
        """Refuse a row of which some value is wrong; `wrong` has an element for each value of all lists."""
        if wrong.true_count:
            parents = pc.list_parent_indices(lists).filter(wrong)
            self._refuse(name, pc.is_in(pa.array(range(len(lists)), pa.int64()), parents), expected)

    def _texts(self, name: str) -> pa.ListArray:
        column = self.columns[name]
        expected = "a list of texts" if name in TEXTS[self.kind] else "a text"
        if _is_text(column.type):
            text = self._text(name)
            self._refuse(name, pc.fill_null(_is_blank(text), True), expected)
            return pa.ListArray.from_arrays(pa.array(range(len(text) + 1), pa.int32()), text)
        self._refuse(name, pc.fill_null(pc.equal(pc.list_value_length(column), 0), True), expected)
        lists = self._valid(name, column.cast(pa.list_(pa.string())))
        self._refuse_within(name, lists, pc.fill_null(_is_blank(lists.flatten()), True), expected)
        return lists

    def _valid(self, name: str, column: pa.Array) -> pa.Array:
        """The column. Parquet files of some programs hold texts that are not UTF-8, which Arrow does not check."""
        try:
            column.validate(full=True)
        except pa.ArrowInvalid:
            for row, value in enumerate(column):
                try:
                    value.as_py()
                except UnicodeDecodeError as error:
                    number = self.numbers[row].as_py()
                    raise ValueError(f"{self.path}: row {number}: {name!r} is not UTF-8 ({error.reason})") from None
            raise
        return column

    def _refuse(self, name: str, wrong: pa.BooleanArray, expected: str) -> None:
        if wrong.true_count:
            row = wrong.index(True).as_py()
            found = shown(self.columns[name][row].as_py()) if name in self.columns else "missing"
            number = self.numbers[row].as_py()
            raise ValueError(f"{self.path}: row {number}: {name!r} is {found}, expected {expected}")


def _is_blank(text: pa.StringArray) -> pa.BooleanArray:
    return pc.equal(pc.utf8_trim_whitespace(text), "")


def _is_text(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


def _is_list(kind: pa.DataType) -> bool:
    return any(is_list(kind) for is_list in (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list))


def _is_captions(kind: pa.DataType) -> bool:
    return _is_text(kind) or (_is_list(kind) and _is_text(kind.value_type))


def _is_ids(kind: pa.DataType) -> bool:
    value = kind.value_type if _is_list(kind) else kind
    return _is_text(value) or pa.types.is_integer(value)


def _is_number(kind: pa.DataType) -> bool:
    return pa.types.is_integer(kind) or pa.types.is_floating(kind)
