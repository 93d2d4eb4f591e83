"""Joins manifests and annotations in JSON to one manifest. This module needs the extra [scale]."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from stgt.data.annotations import load_captions
from stgt.data.manifest.cache import is_manifest, open_manifest
from stgt.data.manifest.columns import SCHEMAS
from stgt.data.manifest.write import writing_manifest


def join_manifests(parts: Sequence[tuple[Path, Path]], out: Path) -> tuple[int, int]:
    """Write the rows of several annotations of captions as one manifest; returns the number of its videos and captions.

    parts: each annotation, and the folder in front of its names. An absolute path and an address stay as they are.
    """
    captions = 0
    with writing_manifest(out) as joined:
        for annotation, folder in parts:
            prefix = "" if folder == Path(".") else f"{folder.as_posix()}/"
            if is_manifest(annotation):
                manifest = open_manifest(annotation, kind="captions")
                captions += manifest.count_pairs()
                for batch in manifest.batches:
                    joined.add_rows(_moved(batch, prefix))
            else:
                for clip in load_captions(annotation):
                    joined.add(str(folder / clip.video), clip.captions)
                    captions += len(clip.captions)
    return joined.count, captions


def _moved(batch: pa.RecordBatch, prefix: str) -> pa.RecordBatch:
    """The rows with `prefix` before their names. For a member of a shard, it is put before the name of the shard."""
    columns = {name: batch.column(name) for name in SCHEMAS["captions"].names}
    in_shard = pc.is_valid(columns["shard"])
    columns["video"] = pc.if_else(in_shard, columns["video"], _below(columns["video"], prefix, "^/"))
    columns["packed_from"] = _below(columns["packed_from"], prefix, "^/")
    columns["shard"] = _below(columns["shard"], prefix, "^/|://|::")  # it may be an address
    return pa.RecordBatch.from_arrays([*columns.values()], schema=SCHEMAS["captions"])


def _below(names: pa.StringArray, prefix: str, whole: str) -> pa.StringArray:
    """The names with `prefix` before those that the regular expression `whole` does not match."""
    return pc.if_else(pc.match_substring_regex(names, whole), names, pc.binary_join_element_wise(prefix, names, ""))
