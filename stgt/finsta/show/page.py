"""The pictures of a clip's graphs in a folder, with a page that holds them all."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

from torch import Tensor

from stgt.data.video import read_frames
from stgt.figures.page import Picture, write_page
from stgt.finsta.graphs.convert import thinned
from stgt.finsta.graphs.graph import ClipGraphs
from stgt.finsta.graphs.lines import read_graphs
from stgt.finsta.show.aligned import align, track_looks
from stgt.finsta.show.pictures import draw_text, draw_video, draw_whole
from stgt.ownership import owned

MOST = 150
"""The largest number of nodes of a text, or of tracks, that is drawn; a picture of more would be too large to open"""


def read_clip_graphs(path: Path, number: int, frames: int) -> ClipGraphs:
    """The clip of a line of a file of graphs, counted from 0, with at most `frames` frames, evenly spread.

    Raises ValueError if there is no such line, or if the clip is too large to be drawn.
    """
    if number < 0:
        raise ValueError(f"clip is {number}, expected 0 or more")
    clip = next(islice(thinned(islice(read_graphs(path), number, number + 1), frames), 1), None)
    if clip is None:
        raise ValueError(f"clip is {number}, but {path} has fewer clips; expected a number from 0")
    sizes = {"nodes of the text": len(clip.tsg.nodes) if clip.tsg else 0}
    sizes["tracks"] = len(track_looks(clip.dsg)) if clip.dsg else 0
    for name, size in sizes.items():
        if size > MOST:
            raise ValueError(f"{path}: clip {number} has {size} {name}, expected at most {MOST} for a picture")
    return clip


def show(clip: ClipGraphs, videos: Path | None, out: Path) -> Path:
    """Draw the graphs of a clip into the folder `out`, and return the path of the page.

    videos: folder of the videos; None draws empty frames. Raises VideoError if the clip's video cannot be read.
    """
    with owned(out):
        pictures = _pictures(clip, _images(clip, videos), out)
        page = out / "index.html"
        write_page(page, "Scene graphs of a clip", _settings(clip), pictures)
    return page


def _images(clip: ClipGraphs, videos: Path | None) -> list[Tensor | None]:
    if clip.dsg is None:
        return []
    if videos is None or not clip.video:
        return [None] * len(clip.dsg.frames)
    # A window that begins at a frame's time, and in which no other frame begins, holds the frame that is shown then.
    return [read_frames(videos / clip.video, 1, start=frame.t, end=frame.t + 1e-4)[0] for frame in clip.dsg.frames]


def _pictures(clip: ClipGraphs, images: list[Tensor | None], out: Path) -> list[Picture]:
    pictures = []
    text = Picture(
        out / "text.png",
        "Textual scene graph",
        "The words of the text that are objects, attributes, predicates and adverbs, and the edges between them. An "
        "object has the colour of the track that it is about.",
    )
    video = Picture(
        out / "video.png",
        "Dynamic scene graph",
        "A line for each track, with a circle in each frame in which it is seen. The line between two circles is the "
        "edge of temporal coreference, and it is dotted where the track is not seen in between. Arrows lead from "
        "subjects to objects. Bars name the relations and last as long as they hold; the circle at the end of a bar "
        "is the object.",
    )
    how = "known" if align(clip).known else "those with the same words"
    whole = Picture(
        out / "whole.png",
        "Holistic scene graph",
        "Both graphs. Curves lead from each object of the text to the sightings of the tracks that it is about: the "
        f"edges of cross-modal coreference. Here these tracks are {how}.",
    )
    if clip.tsg is not None:
        draw_text(clip, text.file)
        pictures.append(text)
    if clip.dsg is not None:
        draw_video(clip, images, video.file)
        pictures.append(video)
    if clip.tsg is not None and clip.dsg is not None:
        draw_whole(clip, images, whole.file)
        pictures.append(whole)
    return pictures


def _settings(clip: ClipGraphs) -> dict[str, str]:
    found = {"video": clip.video or "none", "text": clip.text or "none", "source of the graphs": clip.source}
    if clip.tsg is not None:
        found["text's graph"] = f"{len(clip.tsg.nodes)} nodes, {len(clip.tsg.edges)} edges"
    if clip.dsg is not None:
        frames = clip.dsg.frames
        found["video's graph"] = (
            f"{len(frames)} frames, {len(track_looks(clip.dsg))} tracks, "
            f"{sum(len(frame.objects) for frame in frames)} objects, "
            f"{sum(len(frame.relations) for frame in frames)} relations"
        )
    return found
