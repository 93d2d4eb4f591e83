"""`stgt index`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tyro

from stgt.cli.options import require_positive
from stgt.data_config import DEADLINE


def index(
    folders: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="[FOLDER ...]")] = (),
    *,
    out: Path,
    model: str | None = None,
    window: float | None = None,
    stride: float | None = None,
    shots: bool = False,
    workers: int = 2,
    ray: bool = False,
    timeout: float = DEADLINE,
    exact_up_to: int = 1_000_000,
    tokenizer: str | None = None,
    device: str = "auto",
) -> None:
    """Make an index of the moments of videos, which `stgt search` answers from, or bring it up to date.

    Only new and changed files are read. A command that was stopped or killed goes on where it stopped.

    Args:
        folders: Folders of videos, with the folders in them; those of the last time if none is given.
        out: The index, e.g. films.index.
        model: A run's folder, a folder that `stgt convert` or save_pretrained wrote, a name on the hub, or
            openclip:ARCHITECTURE/WEIGHTS for any CLIP of open_clip, e.g. openclip:ViT-B-32/laion2b_s34b_b79k, where
            WEIGHTS may be a file; the model of the index if not given.
        window: Seconds of a window, 8 for a new index. Answers are windows.
        stride: Seconds between the beginnings of windows, 4 for a new index.
        shots: Cut videos at shots first, so that each window ends with its shot. An index that was made so stays so.
        workers: Number of processes that read videos.
        ray: Read and encode on all machines of a Ray cluster, which see the videos under the same paths: the one that
            RAY_ADDRESS names or that runs here. If there is none, this machine works with all its GPUs.
        timeout: Seconds that reading 16 windows of a video, or finding the shots in a minute of it, may take. A file
            that takes longer is left out.
        exact_up_to: An index with more windows than this is searched with faiss, which may miss an answer. Other
            indexes, and all of them where faiss is not installed, are searched exactly.
        tokenizer: The tokenizer's folder, or its name on the hub. It is needed for a model that is not a run, comes
            without a tokenizer and does not use BERT's.
        device: The device that the model runs on; "auto" is a GPU where there is one.
    """
    from stgt.data.processes import start_server

    require_positive(workers=workers, exact_up_to=exact_up_to)
    if not timeout > 0:
        raise ValueError(f"--timeout is {timeout}, expected a positive number of seconds")
    if not ray:
        start_server()  # it imports its modules while this process loads the model
    from stgt.search.index import Index
    from stgt.terminal import say

    opened = Index(out, model, device=device, tokenizer=tokenizer)
    settings = {
        "window": window,
        "stride": stride,
        "shots": shots or None,
        "workers": workers,
        "ray": ray,
        "timeout": timeout,
    }
    changes = opened.update(*folders, **settings, exact_up_to=exact_up_to)
    for path, cause in changes.broken.items():
        say(f"left out, {path}: {cause}")
    again = len({*changes.added} & {*changes.removed})
    say(
        f"{out}: {len(opened.files)} videos, {len(opened)} windows; new: {len(changes.added) - again}, "
        f"changed: {again}, gone: {len(changes.removed) - again}, left out: {len(changes.broken)}"
    )
