"""The figures of one clip and one of its patches, and what a page tells about them."""

from __future__ import annotations

from pathlib import Path

from stgt.data.errors import VideoError
from stgt.data.pixels import to_pixels
from stgt.data.transforms import eval_transform
from stgt.data.video import read_frames
from stgt.figures.examples import find_examples
from stgt.figures.inside import Token, look_inside, moving_token, require_token
from stgt.figures.maps import Scene
from stgt.figures.page import Picture
from stgt.figures.pictures import draw_examples
from stgt.figures.style import squares
from stgt.runs import Run, precision
from stgt.tasks import QUESTIONS


def folder_name(video: Path) -> str:
    """The video's name without its ending, or the whole name if only dots would be left."""
    return video.stem if video.stem.strip(".") else video.name


def draw_retrieved(run: Run, features: Path, count: int, out: Path) -> tuple[list[Picture], str | None]:
    """Pictures of the run's retrieval results, or the reason why there are none, such as a missing or broken file."""
    if absent := why_no_examples(run, count):
        return [], absent
    try:
        return draw_examples(*find_examples(run, features, count), out), None
    except (ValueError, OSError, VideoError) as error:
        return [], str(error)


def look_at(run: Run, video: Path, place: tuple[int | None, int | None, int | None], layer: int) -> Scene:
    """Run a run's model on a video. Parts of `place` that are None come from the patch that moves most."""
    vision = run.config.model.vision.sizes
    frames = read_frames(video, run.config.data.frames, **run.config.data.decoding)
    shown = squares(frames)
    found = moving_token(shown, vision.grid)
    token = Token(*(place if place is not None else default for place, default in zip(place, found, strict=True)))
    require_token(token, len(frames), vision.grid)
    with precision(run):
        inside = look_inside(run.model, to_pixels(frames, eval_transform(vision.image_size)), layer=layer)
    return Scene(shown, inside, token)


def why_no_examples(run: Run, count: int) -> str | None:
    """The reason why there can be no examples of retrieval, or None."""
    if run.task is QUESTIONS:
        return "this model answers questions and does not retrieve"
    if run.tokenizer is None:
        return "a model without a run has no test split"
    if count and not run.config.data.test.is_file():
        return f"the run's test split, {run.config.data.test}, does not exist"
    return None if count else "examples is 0"


def settings_of(run: Run, folder: Path, video: Path, scene: Scene, layer: int) -> dict[str, str]:
    """The settings that are needed to draw the same page again."""
    inside, config = scene.inside, run.config.model
    step = "" if run.checkpoint == folder else f", {run.checkpoint.name}"
    parameters = sum(p.numel() for p in run.model.parameters())
    return {
        "video": f"{video}, {inside.frames} frames, resized to squares as for the model",
        "model": f"{folder}{step}, {parameters:,} parameters",
        "graph layer": f"{layer + 1} of {config.graph.layers}, {config.graph.heads} heads",
        "threshold h": "none" if inside.threshold is None else f"{inside.threshold:g}",
        "window w": str(inside.window),
        "patches": f"{inside.grid} × {inside.grid} in each frame, {inside.frames * inside.grid**2} tokens",
    }
