"""`stgt finsta …`: the reconstruction of Finsta (arXiv 2406.19255)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from stgt.cli.options import refuse, require_positive
from stgt.finsta.hosts.kinds import HostKind
from stgt.finsta.training.config import PostTraining
from stgt.terminal import say

if TYPE_CHECKING:
    from torch import Tensor

    from stgt.finsta.evaluation.measured import Measured
    from stgt.finsta.graphs.graph import ClipGraphs, VideoGraph

Form = Literal["graphs", "captions", "texts", "videos", "action-genome", "pvsg", "shapes", "star", "vidor", "vidvrd"]
Studies = Literal["controls", "graphs", "missing", "parts"]
BLOBS = "blobs"
"""The name that stands for the detector of simulated clips"""


def graphs(
    form: Annotated[Form, tyro.conf.Positional],
    source: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="SOURCE")],
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
        parse: Make the graphs of the texts with a parser. For "texts", it always makes them.
        detect: Make the graphs of the videos with a detector of transformers: a folder, or a name on the Hugging Face
            hub. "blobs" finds the objects of simulated clips by their colours.
        labels: Things that the detector looks for, e.g. "a man" "a horse"; for a detector with a fixed list of
            classes, the classes to keep.
        threshold: Smallest score of a detected object; 0.3 if not given.
        frames: Number of frames of each clip, evenly spread; all if not given, which suits short clips.
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
    source: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="SOURCE")],
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


def evaluate(
    model: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")],
    graphs: Path,
    videos: Path | None = None,
    scenes: Path | None = None,
    against: Path | None = None,
    host: HostKind = "stgt",
    clips: int | None = None,
    grounded_clips: int = 300,
    batch_size: int = 128,
    out: Path | None = None,
    tokenizer: str | None = None,
    device: str = "auto",
) -> None:
    """Measure a host: retrieval, choices against wrong captions, and the groundings of the Finsta in its folder.

    Args:
        model: The host: a folder of `stgt finsta train`, or a host as that command takes it.
        graphs: File of scene graphs; the first clip of each video that has a text is taken. Groundings are measured
            where the file has them, as that of `stgt finsta graphs shapes` for clips of `--kind phases`.
        videos: Folder of the videos; the folder `videos` beside GRAPHS if not given.
        scenes: The scenes.json of simulated clips with wrong captions; the one beside the folder of the videos if not
            given and there is one.
        against: Another host of the same kind, which is measured on the same clips. The differences are printed with
            the 95% intervals of a paired bootstrap over the clips.
        host: The kind of the host.
        clips: Number of clips, from the first one; all if not given.
        grounded_clips: Number of clips, from the first one, on which groundings are measured.
        batch_size: Videos per batch. The texts of all clips are encoded again for each batch.
        out: JSON file for the results of each clip; MODEL/finsta_evaluation.json if not given.
        tokenizer: The tokenizer of a host that comes without one, as in `stgt evaluate`.
        device: "auto" is a GPU where there is one.
    """
    from stgt.finsta.evaluation.clips import Frames, one_clip_per_video
    from stgt.finsta.evaluation.matching import read_negatives
    from stgt.finsta.evaluation.measure import measure
    from stgt.finsta.evaluation.report import compare, report
    from stgt.finsta.graphs.lines import read_graphs
    from stgt.finsta.hosts.folders import open_host

    require_positive(clips=clips, grounded_clips=grounded_clips, batch_size=batch_size)
    folder = _folder_of_videos("graphs", graphs, videos)
    if folder is None:
        raise ValueError(f"{graphs}: there is no folder `videos` beside it, expected --videos and the folder")
    if scenes is None and (beside := folder.parent / "scenes.json").is_file():
        scenes = beside
    if out is None and not model.is_dir():
        raise ValueError(f"{model} is no folder on this machine, expected --out and a file for the results")
    chosen = one_clip_per_video(read_graphs(graphs))[:clips]
    negatives = read_negatives(scenes) if scenes else {}

    def measured_of(model: Path) -> Measured:
        opened = open_host(model, host, device=device, tokenizer=tokenizer)
        frames = Frames(opened, chosen, folder, batch_size)
        return measure(model, opened, chosen, frames, negatives, grounded_clips)

    measured = measured_of(model)
    out = out or model / "finsta_evaluation.json"
    measured.write(out)
    say(*report(measured).split("\n"), f"written: {out}")
    if against is not None:
        difference = compare(measured, measured_of(against))
        say("", f"against {against}, in points:", *difference.split("\n"))


def ablate(
    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")],
    studies: Annotated[tuple[Studies, ...], tyro.conf.Positional] = (),
    data: Path = Path("data/phases"),
    seeds: int = 3,
    clips: int = 3000,
    test_clips: int = 1000,
    grounded_clips: int = 300,
    epochs: int = 1,
    align_epochs: int = 1,
    batch_size: int = 32,
    lr: float = 1e-3,
    host_lr: float = 1e-4,
    osc_weight: float = PostTraining.osc_weight,
    ptc_weight: float = PostTraining.ptc_weight,
    distillation_weight: float = PostTraining.distillation_weight,
    workers: int = 0,
    out: Path = Path("runs/finsta"),
    device: str = "auto",
) -> None:
    """Compare Finsta with its controls on simulated clips. The same command goes on after an interruption.

    Args:
        run: The host, a run of `stgt train` on the same clips.
        studies: controls (the same steps without graphs, labels alone, graphs of other clips), graphs (noisy and found
            ones), missing (nodes that are missing), parts (Finsta without a part); all if none is given.
        data: Folder of clips that `stgt data shapes --kind phases` wrote.
        seeds: Number of runs of each row.
        clips: Number of clips to learn from.
        test_clips: Number of clips to test on.
        grounded_clips: Number of test clips on which groundings and the probe of motion are measured.
        epochs: Passes over the clips in which the host learns.
        align_epochs: Passes over the clips before that, in which Finsta alone learns.
        batch_size: Number of clips in a batch.
        lr: Largest learning rate of Finsta.
        host_lr: Largest learning rate of the host.
        osc_weight: Weight of the object-centred spatial contrast while the host learns.
        ptc_weight: Weight of the predicate-centred temporal contrast while the host learns.
        distillation_weight: Weight of the distillation from Finsta's nodes to the host's states.
        workers: Number of processes that read clips.
        out: Folder for the graphs, the runs, finsta.md and finsta.json.
        device: "auto" is a GPU where there is one.
    """
    from stgt.finsta.evaluation.ablation.grid import Grid
    from stgt.finsta.evaluation.ablation.study import ablate as run_studies

    require_positive(seeds=seeds, clips=clips, test_clips=test_clips, grounded_clips=grounded_clips)
    training = PostTraining(
        run, graphs=out, out=out, videos=data / "videos", epochs=epochs, align_epochs=align_epochs,
        batch_size=batch_size, lr=lr, host_lr=host_lr, osc_weight=osc_weight, ptc_weight=ptc_weight,
        distillation_weight=distillation_weight, cache=True, workers=workers, device=device, keep=1,
    )  # fmt: skip
    run_studies(studies, Grid(training, data, out, seeds, clips, grounded_clips), test_clips)


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
    from stgt.distributed import choose_device
    from stgt.finsta.graphs.video.detectors import TransformersDetector

    least = 0.3 if threshold is None else threshold
    detector = TransformersDetector(detect, labels, threshold=least, device=choose_device(device))
    return lambda frames, times: video_graph(times, detector(frames))
