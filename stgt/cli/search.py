"""`stgt search`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from stgt.cli.options import refuse, require_positive
from stgt.evaluation.options import MODEL

if TYPE_CHECKING:
    from torch import Tensor

    from stgt.search.search import Hit

STILLS = 4
"""Number of frames of each video on the picture of the results"""


def search(
    words: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="[INDEX] [SENTENCE]")] = (),
    *,
    model: Annotated[str | None, MODEL] = None,
    videos: Path | None = None,
    video: Path | None = None,
    captions: Path | None = None,
    top: int = 5,
    json: bool = False,
    figure: Path | None = None,
    tokenizer: str | None = None,
    features: Path | None = None,
    device: str = "auto",
) -> None:
    """Find the moments or videos that fit a sentence, or, with --video, the sentences that fit a video.

    stgt search films.index "a red cube": the moments of an index that `stgt index` has made.

    stgt search films.index --video clip.mp4: the moments of an index that are most like a clip or a picture.

    stgt search "a red cube" --model MODEL --videos FOLDER: whole videos, which the matching head ranks again.

    stgt search --video clip.mp4 --model MODEL --captions FILE: the sentences that fit a video.

    Args:
        words: The index, if there is one, and the sentence to search for, e.g. "a green triangle grows".
        videos: Folder of videos to search, with the folders in it; the run's test split if not given. Videos that were
            encoded before are read again only if they have changed.
        video: A video to find sentences for, or, with an index, a clip or a picture to find similar moments for.
        captions: Sentences to choose from: a text file with one sentence per line, or an annotation; the run's test
            annotation if not given.
        top: Number of results to show.
        json: Print the moments as a list of JSON objects with path, start, end (in seconds) and score.
        figure: Picture of the videos that were found; MODEL/search.png if not given.
        tokenizer: The tokenizer's folder, or its name on the hub. It is needed for a model that is not a run, comes
            without a tokenizer and does not use BERT's.
        features: Folder to keep encoded videos and texts in; MODEL/features if not given.
        device: The device that the model runs on; "auto" is a GPU where there is one.
    """
    if len(words) > 1 or (words and (Path(words[0]) / "index.json").is_file()):
        refuse("without an index only", videos=videos, captions=captions, figure=figure, features=features)
        _search_index(words, video, model, top, json, device=device, tokenizer=tokenizer)
        return
    refuse("with an index only", json=json or None)
    sentence = words[0] if words else None
    if (sentence is None) == (video is None):
        raise ValueError(f"expected a sentence or --video FILE, got {'neither' if video is None else 'both'}")
    if video is None:
        refuse("with --video only", captions=captions)
    else:
        refuse("with a sentence only, because a video is compared with --captions", videos=videos, figure=figure)
    require_positive(top=top)
    if model is None:
        raise ValueError(
            "--model is not given, expected it, or an index and a sentence as in `stgt search films.index SENTENCE`"
        )
    if model.startswith("openclip:"):
        raise ValueError(
            f"--model is {model}, which searches an index only; expected `stgt index FOLDER --out films.index --model "
            f"{model}` first, and then `stgt search films.index SENTENCE`"
        )
    _search_model(sentence, model, videos, video, captions, top, figure, tokenizer, features, device)


def _search_index(
    words: tuple[str, ...], video: Path | None, model: str | None, top: int, as_json: bool, **options: str | None
) -> None:
    """Print the moments of an index that fit a sentence, or that are like a video."""
    import json

    from stgt.search.index import Index
    from stgt.terminal import say

    place, *sentence = words
    if sentence and video is not None:
        raise ValueError(f"got a sentence and --video {video}, expected only one of them after {place}")
    if video is None and len(sentence) != 1:
        raise ValueError(f"got {len(sentence)} sentences after {place}, expected one, in quotes, or --video FILE")
    require_positive(top=top)
    index = Index(place, model, **options)
    found = index.search(sentence[0], top=top) if sentence else index.search_video(video, top=top)
    if as_json:
        print(json.dumps([moment._asdict() | {"path": str(moment.path)} for moment in found], indent=1))
        return
    for number, moment in enumerate(found, start=1):
        span = f"{clock(moment.start)} – {clock(moment.end)}"
        say(f"{number:3}.  {moment.score:.3f}  {span}  {moment.path}")


def _search_model(
    sentence: str | None,
    model: str,
    videos: Path | None,
    video: Path | None,
    captions: Path | None,
    top: int,
    figure: Path | None,
    tokenizer: str | None,
    features: Path | None,
    device: str,
) -> None:
    """Print whole videos that fit a sentence and draw them, or print the sentences that fit a video."""
    from stgt.runs import find_model, open_retrieval
    from stgt.search.search import find_captions, find_videos
    from stgt.terminal import say

    place = find_model(model)
    run = open_retrieval(place.folder, device, tokenizer)
    features = features or place.out / "features"
    if video is not None:
        hits = find_captions(run, video, captions, features, top=top)
    else:
        hits = find_videos(run, sentence, videos, features, top=top)
    for number, hit in enumerate(hits, start=1):
        say(f"{number:3}.  {hit.score:.3f}  {hit.found}")
    if sentence is not None:
        _draw(hits, sentence, videos or run.config.data.videos, figure or place.out / "search.png")


def clock(seconds: float) -> str:
    """A time as a player shows it: 1:05, or 1:01:05 after the first hour."""
    whole = int(seconds)
    hours, minutes = divmod(whole // 60, 60)
    return f"{hours}:{minutes:02}:{whole % 60:02}" if hours else f"{minutes}:{whole % 60:02}"


def _draw(hits: list[Hit], sentence: str, root: Path, out: Path) -> None:
    from stgt.data.video import read_frames
    from stgt.figures.attempt import try_to_draw
    from stgt.figures.results import draw_results
    from stgt.figures.style import squares
    from stgt.terminal import say

    def stills(hit: Hit) -> Tensor:
        with hit.opened() as path:
            return squares(read_frames(path, STILLS))

    def draw(out: Path) -> None:
        draw_results(sentence, [(_label(hit.found, root), hit.score, stills(hit)) for hit in hits], out)

    if try_to_draw(draw, out):
        say(f"the picture is {out}")


def _label(path: Path, root: Path) -> str:
    """A path, relative to the folder `root` if it is inside. The beginning of a long path is left out."""
    from stgt.terminal import printable

    name = printable(path.relative_to(root) if path.is_relative_to(root) else path)
    return name if len(name) <= 20 else f"…{name[-19:]}"
