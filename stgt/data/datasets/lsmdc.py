"""LSMDC 2016 (Rohrbach et al. 2017): clips of films with one sentence each.

LSMDC16_annos_{training,val}.csv and LSMDC16_challenge_1000_publictect.csv (1000 clips to test on), or else
LSMDC16_annos_test.csv (the whole public test set), are tables without a header: the clip, four times and the sentence,
separated by tabs. Videos are <film>/<clip>.avi.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from stgt.data.datasets.captions import group
from stgt.data.datasets.dataset import DataSet, Size
from stgt.data.entries import Clip
from stgt.data.lines import read_lines


def read_lsmdc(source: Path) -> dict[str, list[Clip]]:
    """The official splits; the test split is the one whose file is there, the challenge's 1000 clips first."""
    files = {
        "train": "LSMDC16_annos_training.csv",
        "val": "LSMDC16_annos_val.csv",
        "test": "LSMDC16_challenge_1000_publictect.csv",
    }
    if not (source / files["test"]).exists() and (source / "LSMDC16_annos_test.csv").exists():
        files["test"] = "LSMDC16_annos_test.csv"
    return {split: group(source / file, _pairs(source / file)) for split, file in files.items()}


def _pairs(path: Path) -> Iterator[tuple[str, str]]:
    for number, line in enumerate(read_lines(path), start=1):
        if not line.strip():
            continue
        row = line.rstrip("\r\n\t").split("\t")
        if len(row) != 6:
            raise ValueError(f"{path}: line {number} has {len(row)} columns, expected 6: clip, 4 times, sentence")
        film = re.fullmatch(r"(.+)_[\d.]+-[\d.]+", row[0])
        if film is None:
            raise ValueError(f"{path}: the clip in line {number} is {row[0][:80]!r}, expected <film>_<start>-<end>")
        yield f"{film[1]}/{row[0]}.avi", row[5]


LSMDC = DataSet(
    read_lsmdc,
    {
        "train": (Size("LSMDC 2016", None, 101_079),),
        "val": (Size("LSMDC 2016", None, 7408),),
        "test": (
            Size("the 1000 clips of the 2016 challenge", 1000, 1000),
            Size("the public test set of LSMDC 2016", None, 10_053),
        ),
    },
)
