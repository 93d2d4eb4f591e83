"""Scene graphs from files of any kind: texts, annotations, videos and published graphs."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from stgt.data.annotations import load_captions
from stgt.data.errors import VideoError
from stgt.data.folders import find_files
from stgt.data.lines import read_lines
from stgt.data.names import VIDEOS
from stgt.data.video import read_clip, sample_indices
from stgt.finsta.graphs.graph import ClipGraphs, TextGraph, VideoGraph
from stgt.finsta.graphs.lines import read_graphs
from stgt.finsta.graphs.readers import READERS

logger = logging.getLogger(__name__)


def read_clips(form: str, source: Path, videos: Path | None) -> Iterator[ClipGraphs]:
    """Clips of a file or folder, with the graphs in it. Captions, texts and videos have no graphs yet.

    form: "graphs" (our own lines), "captions" (a retrieval annotation), "texts" (a sentence on each line), "videos" (a
    folder), or one of READERS. videos: the folder of the videos, which some of READERS need. Raises ValueError that
    names the file or folder if it is not of this form, or holds no video.
    """
    if form == "graphs":
        yield from read_graphs(source)
    elif form == "captions":
        for clip in load_captions(source):
            for caption in clip.captions:
                yield _bare(clip.video, caption)
    elif form == "texts":
        for line in read_lines(source):
            if line.strip():
                yield _bare("", line.strip())
    elif form == "videos":
        if not (names := find_files(source, VIDEOS).files):
            raise ValueError(f"{source}: there is no video in the folder, expected at least one")
        for name in names:
            yield _bare(name, "")
    else:
        yield from READERS[form](source, videos)


def _bare(video: str, text: str) -> ClipGraphs:
    return ClipGraphs(video, text, None, None, "parser")


def with_texts(clips: Iterable[ClipGraphs], parse: Callable[[str], TextGraph]) -> Iterator[ClipGraphs]:
    """Clips with a new graph of each text. The grounding is dropped, since it names nodes of the old graph."""
    for clip in clips:
        if clip.text:
            source = clip.source if clip.dsg else "parser"
            clip = replace(clip, tsg=parse(clip.text), source=source, grounding=())
        yield clip


def with_videos(
    clips: Iterable[ClipGraphs], videos: Path, frames: int | None, find: Callable[[Tensor, list[float]], VideoGraph]
) -> Iterator[ClipGraphs]:
    """Clips with a new graph of each video.

    frames: the number of frames to look at, evenly spread, or None for all. find: takes frames, uint8 (T, H, W, 3), and
    their times in seconds. A video that cannot be read is left out with a warning, so that the work on others is kept.
    """
    last: tuple[str | None, VideoGraph | None] = (None, None)
    for clip in clips:
        if clip.video != last[0]:
            last = (clip.video, _found(videos / clip.video, frames, find))
        if last[1] is not None:
            yield replace(clip, dsg=last[1], source="detector", grounding=())


def _found(path: Path, frames: int | None, find: Callable[[Tensor, list[float]], VideoGraph]) -> VideoGraph | None:
    try:
        clip = read_clip(path, frames)
    except VideoError as error:
        logger.warning("%s; it is left out", error)
        return None
    times = clip.times.tolist()
    # A video with fewer frames than were asked for repeats some of them, which are left out here.
    kept = [place for place, time in enumerate(times) if not place or time > times[place - 1]]
    return find(clip.frames[kept], [times[place] for place in kept])


def thinned(clips: Iterable[ClipGraphs], frames: int) -> Iterator[ClipGraphs]:
    """Clips with at most `frames` frames, evenly spread."""
    for clip in clips:
        if clip.dsg and len(clip.dsg.frames) > frames:
            kept = [clip.dsg.frames[place] for place in sample_indices(len(clip.dsg.frames), frames)]
            tracks = {thing.track for frame in kept for thing in frame.objects}
            truths = tuple(truth for truth in clip.grounding if tracks.issuperset(truth.tracks))
            clip = replace(clip, dsg=VideoGraph(tuple(kept)), grounding=truths)
        yield clip
