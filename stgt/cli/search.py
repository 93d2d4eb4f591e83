"""`stgt search`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import tyro

from stgt.cli.options import Model, refuse, require_positive

if TYPE_CHECKING:
    from stgt.search.search import Hit

STILLS = 4
"""Number of frames of each video on the picture of the results"""


def search(
    sentence: tyro.conf.Positional[str | None] = None,
    *,
    model: Model,
    videos: Path | None = None,
    video: Path | None = None,
    captions: Path | None = None,
    top: int = 5,
    figure: Path | None = None,
    tokenizer: str | None = None,
    features: Path | None = None,
    device: str = "auto",
) -> None:
    """Find the videos that fit a sentence, or, with --video, the sentences that fit a video.

    Args:
        sentence: The sentence to search for, e.g. "a green triangle grows".
        videos: Folder of videos to search, with the folders in it; the run's test split if not given. Videos that were
            encoded before are read again only if they have changed.
        video: A video to find sentences for.
        captions: Sentences to choose from: a text file with one sentence per line, or an annotation; the run's test
            annotation if not given.
        top: Number of results to show.
        figure: Picture of the videos that were found; MODEL/search.png if not given.
        tokenizer: The tokenizer's folder, or its name on the hub. It is needed for a model that is not a run, comes
            without a tokenizer and does not use BERT's.
        features: Folder to keep encoded videos and texts in; MODEL/features if not given.
    """
    from stgt.runs import find_model, open_retrieval
    from stgt.search.search import find_captions, find_videos
    from stgt.terminal import say

    if (sentence is None) == (video is None):
        raise ValueError(f"expected a sentence or --video FILE, got {'neither' if video is None else 'both'}")
    if video is None:
        refuse("with --video only", captions=captions)
    else:
        refuse("with a sentence only, because a video is compared with --captions", videos=videos, figure=figure)
    require_positive(top=top)
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


def _draw(hits: list[Hit], sentence: str, root: Path, out: Path) -> None:
    from stgt.data.video import read_frames
    from stgt.figures.attempt import try_to_draw
    from stgt.figures.results import draw_results
    from stgt.figures.style import squares
    from stgt.terminal import say

    def draw(out: Path) -> None:
        shown = [(_label(hit.found, root), hit.score, squares(read_frames(hit.found, STILLS))) for hit in hits]
        draw_results(sentence, shown, out)

    if try_to_draw(draw, out):
        say(f"the picture is {out}")


def _label(path: Path, root: Path) -> str:
    """A path, relative to the folder `root` if it is inside. The beginning of a long path is left out."""
    from stgt.terminal import printable

    name = printable(path.relative_to(root) if path.is_relative_to(root) else path)
    return name if len(name) <= 20 else f"…{name[-19:]}"
