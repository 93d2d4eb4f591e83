"""`stgt visualize`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tyro

from stgt.cli.options import Model, refuse


def visualize(
    video: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="VIDEO")],
    model: Model,
    frame: int | None = None,
    row: int | None = None,
    column: int | None = None,
    layer: int = 0,
    examples: int | None = None,
    features: Path | None = None,
    out: Path | None = None,
    device: str = "auto",
) -> None:
    """Draw the paper's figures for a clip and one of its patches, and a page with all of them, OUT/index.html.

    The figures show the similarity, the graph, attention with and without the graph, other thresholds, pooling
    positions, and examples of retrieval.

    Args:
        video: The video file.
        frame: The patch's frame, from 0. Without frame, row and column, the patch that moves most is chosen.
        row: The patch's row, from 0.
        column: The patch's column, from 0.
        layer: The layer of the graph transformer, from 0.
        examples: Number of captions and of clips of the run's test split that are looked up, 3 if not given; 0 for
            none.
        features: Folder to keep encoded videos and texts in; MODEL/features if not given.
        out: Folder for all figures, MODEL/figures/VIDEO if not given. A name that ends in .png is a file for the
            picture of the edges alone.
        device: The device that the model runs on; "auto" is a GPU where there is one.
    """
    from stgt.config import K_TEST
    from stgt.figures.clip import draw_retrieved, folder_name, look_at, settings_of
    from stgt.figures.maps import draw_edges
    from stgt.figures.page import write_page
    from stgt.figures.pictures import draw_scene
    from stgt.ownership import owned
    from stgt.runs import find_model, open_run
    from stgt.terminal import say

    found = find_model(model)
    alone = out is not None and out.suffix == ".png"
    out = out or found.out / "figures" / folder_name(video)
    if alone:
        refuse("with a folder for --out only", examples=examples, features=features)
    elif out.is_file():
        raise ValueError(f"{out} is a file, expected a folder for all figures, or a .png file for the edges alone")
    if examples is not None and examples < 0:
        raise ValueError(f"--examples is {examples}, expected at least 0")
    run = open_run(found.folder, device, words=False)
    scene = look_at(run, video, (frame, row, column), layer)
    token = "frame {}, row {}, column {}".format(*scene.token)
    if alone:
        draw_edges(scene, out)
        say(f"edges of the patch at {token}: {out}")
        return
    with owned(out):
        pictures = draw_scene(scene, out)
        count = 3 if examples is None else examples
        retrieved, absent = draw_retrieved(run, features or found.out / "features", count, out)
        chosen = ", the patch that moves most" if None in (frame, row, column) else ""
        looked_up = f"evenly spread over {run.config.data.test}; the {K_TEST} most similar are re-ranked"
        settings = {
            **settings_of(run, found.folder, video, scene, layer),
            "token": f"{token}, counted from 0{chosen}",
            "retrieved examples": absent or looked_up,
        }
        write_page(out / "index.html", f"STGT on the clip {video.name}", settings, pictures + retrieved)
    say(f"figures of the patch at {token}: {out / 'index.html'}")
    if absent:
        say(f"no retrieved examples: {absent}")
