"""WebVid-2M or -10M (Bain et al. 2021), to pre-train on: results_*_train.csv and results_*_val.csv.

Videos are <page_dir>/<videoid>.mp4. Some of them can no longer be fetched, so no size is expected.
"""

from __future__ import annotations

from pathlib import Path

from stgt.data.datasets.captions import group, without_empty
from stgt.data.datasets.dataset import DataSet
from stgt.data.datasets.tables import rows, split_files
from stgt.data.entries import Clip


def read_webvid(source: Path) -> dict[str, list[Clip]]:
    """The training split, and the validation split if its table is there."""
    splits = {}
    for split, path in split_files(source, {"train": "results_*_train.csv", "val": "results_*_val.csv"}):
        pairs = (
            (f"{row['page_dir']}/{row['videoid']}.mp4", row["name"])
            for _, row in rows(path, ("videoid", "page_dir", "name"))
        )
        splits[split] = group(path, without_empty(path, pairs))
    return splits


WEBVID = DataSet(read_webvid)
