"""Several caption annotations as one, to train on them together."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from stgt.data.annotations import Clip, load_captions, save_captions
from stgt.data.datasets.dataset import count
from stgt.data.manifest.cache import is_manifest
from stgt.terminal import say


def merge(annotations: Sequence[Path], out: Path, root: Path) -> None:
    """Write the clips of several caption annotations as one, whose names are relative to `root`.

    The videos of each annotation are in the folder `videos` beside it, which may be a link. Raises ValueError, before
    anything is written, for annotations that are malformed, whose videos are not below `root`, or that are given twice.
    """
    if not 1 < len(annotations) == len(set(map(os.path.abspath, annotations))):
        raise ValueError(f"annotations are {', '.join(map(str, annotations)) or 'none'}, expected several, each once")
    for path in (*annotations, out):
        if is_manifest(path):
            raise ValueError(f"{path}: a manifest in Parquet, expected JSON; pandas, pyarrow and duckdb join manifests")
    clips: list[Clip] = []
    for annotation in annotations:
        folder = Path(os.path.relpath(annotation.parent / "videos", root))
        if ".." in folder.parts:
            raise ValueError(f"{annotation}: its folder videos is not below {root}, expected it there")
        clips += [Clip((folder / clip.video).as_posix(), clip.captions) for clip in load_captions(annotation)]
    save_captions(clips, out)
    say("{}: {} videos, {} captions, below {}".format(out, *count(clips), root))
