"""The command `stgt visualize`: draws the paper's figures for one clip and one of its tokens, and a page with them."""

from __future__ import annotations

from pathlib import Path

from stgt.data.errors import VideoError
from stgt.data.transforms import test_transform
from stgt.data.video import read_frames
from stgt.evaluation.run import K_TEST
from stgt.figures.examples import find_examples
from stgt.figures.inside import Token, look_inside, moving_token, require_token
from stgt.figures.maps import Scene, draw_links
from stgt.figures.page import Picture, write_page
from stgt.figures.pictures import draw_examples, draw_scene
from stgt.figures.style import squares
from stgt.runs import Run, open_run, precision
from stgt.tasks import QUESTIONS
from stgt.terminal import say


def visualize(
    folder: Path,
    video: Path,
    out: Path | None = None,
    place: tuple[int | None, int | None, int | None] = (None, None, None),
    layer: int = 0,
    examples: int = 3,
    features: Path | None = None,
    device: str = "auto",
) -> None:
    """Draw the figures of a clip into a folder, or its edges alone into a .png; see `stgt visualize --help`."""
    alone = out is not None and out.suffix == ".png"
    out = out or folder / "figures" / folder_name(video)
    if out.is_file() and not alone:
        raise ValueError(f"{out} is a file, expected a folder for all figures, or a .png for the edges alone")
    if examples < 0:
        raise ValueError(f"examples is {examples}, expected at least 0")
    run = open_run(folder, device, words=False)
    scene = look_at(run, video, place, layer)
    token = "frame {}, row {}, column {}".format(*scene.token)
    if alone:
        draw_links(scene, out)
        say(f"edges of the patch at {token}: {out}")
        return
    pictures = draw_scene(scene, out)
    retrieved, absent = _examples(run, features or folder / "features", examples, out)
    settings = {
        **_settings(run, folder, video, scene, layer),
        "token": f"{token}, counted from 0" + ("" if None not in place else ", the patch that moves most"),
        "retrieved examples": absent
        or f"evenly spread over {run.config.data.test}; the {K_TEST} most similar are re-ranked",
    }
    write_page(out / "index.html", f"STGT on the clip {video.name}", settings, pictures + retrieved)
    say(f"figures of the patch at {token}: {out / 'index.html'}")
    if absent:
        say(f"no retrieved examples: {absent}")


def folder_name(video: Path) -> str:
    """The video's name without its ending, or the whole name if only dots would be left."""
    return video.stem if video.stem.strip(".") else video.name


def _examples(run: Run, features: Path, count: int, out: Path) -> tuple[list[Picture], str | None]:
    """Pictures of the run's retrieval results, or the reason why there are none, such as a missing or broken file."""
    if absent := why_no_examples(run, count):
        return [], absent
    try:
        return draw_examples(*find_examples(run, features, count), out), None
    except (ValueError, OSError, VideoError) as error:
        return [], str(error)


def look_at(run: Run, video: Path, place: tuple[int | None, int | None, int | None], layer: int) -> Scene:
    """Run a run's model on a video. Parts of `place` that are None come from the patch that moves most."""
    vision = run.config.model.vision
    frames = read_frames(video, run.config.data.frames, **run.config.data.decoding)
    shown = squares(frames)
    found = moving_token(shown, vision.grid)
    token = Token(*(place if place is not None else default for place, default in zip(place, found, strict=True)))
    require_token(token, len(frames), vision.grid)
    with precision(run):
        inside = look_inside(run.model, test_transform(vision.image_size)(frames.permute(0, 3, 1, 2)), layer=layer)
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


def _settings(run: Run, folder: Path, video: Path, scene: Scene, layer: int) -> dict[str, str]:
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
