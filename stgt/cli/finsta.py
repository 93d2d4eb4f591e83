"""`stgt finsta …`: the reconstruction of Finsta (arXiv 2406.19255)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from stgt.cli.options import refuse, require_positive
from stgt.finsta.training.config import PostTraining
from stgt.terminal import say

if TYPE_CHECKING:
    from torch import Tensor

    from stgt.finsta.graphs.graph import ClipGraphs, VideoGraph

Form = Literal["graphs", "captions", "texts", "videos", "action-genome", "pvsg", "shapes", "star", "vidor", "vidvrd"]
BLOBS = "blobs"
"""The name that stands for the detector of simulated clips"""


def graphs(
    form: Annotated[Form, tyro.conf.Positional],
    source: Annotated[Path, tyro.conf.Positional],
    out: Path,
    videos: Path | None = None,
    only: Path | None = None,
    parse: bool = False,
    detect: str | None = None,
    labels: tuple[str, ...] = (),
    threshold: float | None = None,
    frames: int | None = None,
    device: str = "auto",
) -> None:
    """Write scene graphs of texts and videos, one JSON line per clip. This is a reconstruction of Finsta.

    Args:
        form: What SOURCE is: graphs that this command wrote, captions (an annotation such as train.json), texts (a
            file with a sentence on each line), videos (a folder), shapes (a folder of simulated clips), or the
            annotations of Action Genome, PVSG, STAR, VidOR or VidVRD.
        source: File or folder to read.
        out: File to write, e.g. graphs.jsonl.
        videos: Folder of the videos, for --detect and for annotations that lack the size or the rate of the frames; the
            folder `videos` beside SOURCE if not given.
        only: An annotation such as train.json; clips whose videos it does not name are left out.
        parse: Make the graphs of the texts with a parser. The form "texts" always does.
        detect: Make the graphs of the videos with a detector of transformers: a folder, or a name on the Hugging Face
            hub. "blobs" finds the objects of simulated clips by their colours.
        labels: Things that the detector looks for, e.g. "a man" "a horse"; for a detector with a fixed list of
            classes, the classes to keep.
        threshold: Smallest score of a detected object; 0.3 if not given.
        frames: Number of frames of each clip, evenly spread; all if not given.
        device: "auto" is a GPU where there is one.
    """
    from stgt.data.annotations import load_captions
    from stgt.finsta.graphs.convert import read_clips, thinned, with_texts, with_videos
    from stgt.finsta.graphs.lines import write_graphs

    require_positive(frames=frames)
    if detect in (None, BLOBS):
        refuse("with --detect and the name of a detector", labels=labels, threshold=threshold)
    if form == "texts":
        refuse("with a form other than texts", detect=detect, frames=frames)
    if form == "videos" and detect is None:
        raise ValueError("videos hold no graphs, expected --detect and the name of a detector")
    if form == "captions" and not parse and detect is None:
        raise ValueError("captions hold no graphs, expected --parse, --detect or both")
    folder = _folder_of_videos(form, source, videos)
    clips = read_clips(form, source, folder)
    if only is not None:
        chosen = {clip.video for clip in load_captions(only)}
        clips = (clip for clip in clips if clip.video in chosen)
    if parse or form == "texts":
        from stgt.finsta.graphs.text.parser import TextParser

        clips = with_texts(clips, TextParser())
    if detect is not None:
        if folder is None:
            raise ValueError(
                f"{source}: there is no folder `videos` beside it, expected --videos and the folder of the videos"
            )
        clips = with_videos(clips, folder, frames, _finder(detect, labels, threshold, device))
    elif frames is not None:
        clips = thinned(clips, frames)
    counts: Counter[str] = Counter()
    write_graphs(out, _counted(clips, counts))
    sources = ", ".join(source for source in ("simulated", "gold", "parser", "detector") if counts[source])
    say(
        f"{out}: {counts['clips']} clips, source {sources or 'none'}; "
        f"{counts['texts']} texts with {counts['nodes']} nodes; "
        f"{counts['videos']} videos with {counts['frames']} frames and {counts['objects']} objects in them"
    )


def show(
    source: Annotated[Path, tyro.conf.Positional],
    out: Path,
    clip: int = 0,
    videos: Path | None = None,
    frames: int = 6,
) -> None:
    """Draw the scene graphs of a clip: pictures, and a page with all of them, OUT/index.html.

    Args:
        source: File of scene graphs, e.g. graphs.jsonl.
        out: Folder for the pictures and the page.
        clip: Line of the file, from 0.
        videos: Folder of the videos; the folder `videos` beside SOURCE if not given. Without either, the frames are
            drawn empty.
        frames: Largest number of frames to draw, evenly spread.
    """
    from stgt.finsta.show.page import read_clip_graphs
    from stgt.finsta.show.page import show as draw

    require_positive(frames=frames)
    shown = read_clip_graphs(source, clip, frames)
    page = draw(shown, _folder_of_videos("graphs", source, videos), out)
    say(f"scene graphs of clip {clip}, {shown.video or 'a text alone'}: {page}")


def train(options: Annotated[PostTraining, tyro.conf.arg(name="")]) -> None:
    """Post-train a model with scene graphs. It is a reconstruction of Finsta. The same command goes on after a stop.

    For our own model, --out is an ordinary run afterwards, which `stgt evaluate` and `stgt search` open. For the others
    it is a folder that transformers opens. The model works as before, without scene graphs.
    """
    from stgt.finsta.training.run import post_train

    post_train(options)


def _folder_of_videos(form: str, source: Path, videos: Path | None) -> Path | None:
    """The folder `videos` if given, or else the folder of that name in SOURCE or beside it; None if there is none."""
    if videos is not None:
        if not videos.is_dir():
            raise ValueError(f"--videos is {videos}, expected an existing folder")
        return videos
    if form == "videos":
        return source
    return next((folder for folder in (source / "videos", source.parent / "videos") if folder.is_dir()), None)


def _counted(clips: Iterable[ClipGraphs], counts: Counter[str]) -> Iterator[ClipGraphs]:
    for clip in clips:
        counts.update(("clips", clip.source))
        if clip.tsg is not None:
            counts["texts"] += 1
            counts["nodes"] += len(clip.tsg.nodes)
        if clip.dsg is not None:
            counts["videos"] += 1
            counts["frames"] += len(clip.dsg.frames)
            counts["objects"] += sum(len(frame.objects) for frame in clip.dsg.frames)
        yield clip


def _finder(
    detect: str, labels: tuple[str, ...], threshold: float | None, device: str
) -> Callable[[Tensor, list[float]], VideoGraph]:
    """A function that makes the graph of a video from its frames and their times."""
    from stgt.finsta.graphs.video.build import video_graph

    if detect == BLOBS:
        from stgt.finsta.graphs.video.blobs import find_blobs

        return lambda frames, times: video_graph(times, *find_blobs(frames))
    import torch

    from stgt.finsta.graphs.video.detectors import TransformersDetector

    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    least = 0.3 if threshold is None else threshold
    detector = TransformersDetector(detect, labels, threshold=least, device=device)
    return lambda frames, times: video_graph(times, detector(frames))
