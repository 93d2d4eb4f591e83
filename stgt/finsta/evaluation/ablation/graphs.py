"""The files of graphs that the rows learn from: the truth about simulated clips, worse versions of it, found graphs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from stgt.data.annotations import load_videos
from stgt.finsta.evaluation.noise import delete_nodes, make_noisy
from stgt.finsta.graphs.convert import with_texts, with_videos
from stgt.finsta.graphs.graph import ClipGraphs
from stgt.finsta.graphs.lines import read_graphs, write_graphs
from stgt.finsta.graphs.readers.shapes import read_shapes
from stgt.finsta.graphs.video.blobs import find_blobs
from stgt.finsta.graphs.video.build import video_graph

MISSING = "missing"
"""The names of graphs with missing nodes begin with this, and end with the percentage"""


def true_graphs(data: Path, split: str, count: int) -> list[ClipGraphs]:
    """The true graphs of the first `count` clips of a split of simulated clips, "train" or "test".

    Raises ValueError if there are fewer clips.
    """
    names = load_videos(data / f"{split}.json")
    if len(names) < count:
        raise ValueError(f"{data} holds {len(names)} clips for {split}, expected at least {count}")
    wanted = set(names[:count])
    return [clip for clip in read_shapes(data) if clip.video in wanted]


def graphs_file(name: str, folder: Path, data: Path, count: int) -> Path:
    """The file of the graphs of a Row, which is made if it does not exist. count: the number of training clips."""
    path = folder / f"{name}.jsonl"
    if not path.exists():
        if name == "true":
            write_graphs(path, true_graphs(data, "train", count))
        else:
            clips = list(read_graphs(graphs_file("true", folder, data, count)))
            write_graphs(path, _changed(name, clips, data))
    return path


def _changed(name: str, clips: Sequence[ClipGraphs], data: Path) -> Iterator[ClipGraphs]:
    if name == "found":
        return _found(clips, data)
    rng = np.random.default_rng(0)
    change: Callable[[ClipGraphs], ClipGraphs]
    if name == "noisy":
        labels = sorted({thing.label for clip in clips if clip.dsg for f in clip.dsg.frames for thing in f.objects})
        change = lambda clip: make_noisy(clip, labels, rng)  # noqa: E731
    else:
        share = int(name.removeprefix(MISSING)) / 100
        change = lambda clip: delete_nodes(clip, share, rng)  # noqa: E731
    return map(change, clips)


def _found(clips: Sequence[ClipGraphs], data: Path) -> Iterator[ClipGraphs]:
    """The clips with parsed texts and with objects that are found by their colours."""
    from stgt.finsta.graphs.text.parser import TextParser

    parsed = with_texts(clips, TextParser())
    return with_videos(parsed, data / "videos", None, lambda frames, times: video_graph(times, *find_blobs(frames)))
