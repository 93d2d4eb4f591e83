"""Caption annotations of several folders as one, to train on them together."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from stgt.data.annotations import load_captions, save_captions
from stgt.data.datasets.dataset import count
from stgt.data.entries import Clip
from stgt.data.manifest.cache import is_manifest
from stgt.terminal import say


def merge(annotations: Sequence[Path], out: Path, root: Path) -> None:
    """Write the clips of caption annotations as one annotation, whose names are relative to `root`.

    The videos of each annotation are in the folder `videos` beside it, which may be a link, or those of a manifest in
    its own folder if there is no such folder. If `out` is a manifest, the annotations may be manifests, too. Raises
    ValueError, before anything is written, for annotations that are malformed, whose videos are not below `root`, or
    that are given twice.
    """
    if not 0 < len(annotations) == len(set(map(os.path.abspath, annotations))):
        got = ", ".join(map(str, annotations)) or "none"
        raise ValueError(f"annotations: got {got}, expected one or more, each of them once")
    parts = [(annotation, _folder(annotation, root)) for annotation in annotations]
    if is_manifest(out):
        from stgt.data.manifest.join import join_manifests

        found = join_manifests(parts, out)
    else:
        if manifests := [path for path in annotations if is_manifest(path)]:
            raise ValueError(f"out is {out}, expected a name that ends in .parquet: {manifests[0]} is a manifest")
        clips = [
            Clip((folder / clip.video).as_posix(), clip.captions)
            for annotation, folder in parts
            for clip in load_captions(annotation)
        ]
        save_captions(clips, out)
        found = count(clips)
    say("{}: {} videos, {} captions, below {}".format(out, *found, root))


def _folder(annotation: Path, root: Path) -> Path:
    """The folder, relative to `root`, that the names in an annotation are relative to."""
    videos = annotation.parent / "videos"
    if is_manifest(annotation) and not videos.is_dir():
        videos = annotation.parent
    folder = Path(os.path.relpath(videos, root))
    if ".." in folder.parts:
        raise ValueError(f"{annotation}: its folder {videos.name} is not below {root}, expected it there")
    return folder
