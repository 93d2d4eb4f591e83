"""What `stgt visualize` does."""

from __future__ import annotations

from pathlib import Path

from stgt.data.transforms import test_transform
from stgt.evaluation.run import frames_of
from stgt.figures.links import Token, draw_links, moving_token, token_links
from stgt.training.run import load_run


def visualize(
    folder: Path,
    video: Path,
    out: Path,
    place: tuple[int | None, int | None, int | None] = (None, None, None),
    device: str = "auto",
) -> None:
    """Draw a clip with one token's graph links; see `stgt visualize --help`."""
    run = load_run(folder, device)
    frames = frames_of(video, run)
    default = moving_token(frames, run.config.model.vision.grid)
    token = Token(*(given if given is not None else found for given, found in zip(place, default, strict=True)))
    pixels = test_transform(run.config.model.vision.image_size)(frames.permute(0, 3, 1, 2))
    draw_links(frames, token_links(run.model, pixels, token), token, out, title=f"{video.name}: links of one patch")
    print(f"links of the patch at frame {token.frame}, row {token.row}, column {token.column}: {out}")
