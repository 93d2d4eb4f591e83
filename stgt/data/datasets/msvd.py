"""MSVD (Chen and Dolan 2011): 1970 short clips of YouTube with about 40 captions each.

The captions are in raw-captions.json or AllVideoDescriptions.txt, the splits in {train,val,test}_list.txt. Videos are
<clip>.avi. The pickle raw-captions.pkl is refused, because unpickling runs whatever its author wrote into it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from stgt.data.datasets.captions import group, listed
from stgt.data.datasets.dataset import SPLITS, DataSet, Size
from stgt.data.entries import Clip
from stgt.data.lines import read_lines
from stgt.structure import read_json, shown


def read_msvd(source: Path) -> dict[str, list[Clip]]:
    """The usual splits, which the lists name.

    Raises ValueError, naming the file, for a file that is missing or malformed, and for captions in a pickle alone.
    """
    captions, text, pickled = (
        source / f for f in ("raw-captions.json", "AllVideoDescriptions.txt", "raw-captions.pkl")
    )
    if captions.exists() or not text.exists():
        if pickled.exists() and not captions.exists():
            raise ValueError(
                f"{pickled} is a pickle, which runs code when it is read, and this package reads none. If you trust "
                f'it, make JSON of it: python -c "import json, pickle; json.dump(pickle.load(open({str(pickled)!r}, '
                f"'rb')), open({str(captions)!r}, 'w'))\""
            )
        clips = group(captions, pairs_of_json(captions))
    else:
        lines = (line.split(maxsplit=1) for line in read_lines(text) if line.strip() and not line.startswith("#"))
        clips = group(text, ((f"{clip}.avi", caption[0] if caption else "") for clip, *caption in lines))
    return {split: listed(source / f"{split}_list.txt", clips) for split in SPLITS}


def pairs_of_json(path: Path) -> Iterator[tuple[str, str]]:
    """(video, caption) pairs of raw-captions.json: {clip: [caption, …]}, where a caption is a text or its words.

    Raises ValueError, naming the file and the clip, for anything else.
    """
    for clip, captions in read_json(path, dict).items():
        if not isinstance(captions, list):
            raise ValueError(f"{path}: {clip!r} has {str(captions)[:80]!r}, expected a list of captions")
        for caption in captions:
            words = [caption] if isinstance(caption, str) else caption
            if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
                raise ValueError(f"{path}: {clip!r} has the caption {shown(caption)}, expected a text or its words")
            yield f"{clip}.avi", caption if isinstance(caption, str) else " ".join(words)


MSVD = DataSet(
    read_msvd,
    {
        "train": (Size("the usual split", 1200),),
        "val": (Size("the usual split", 100),),
        "test": (Size("the usual split", 670),),
    },
)
