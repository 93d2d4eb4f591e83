"""`stgt efficiency`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from stgt.cli.options import require_positive


def efficiency(
    size: Literal["quickstart", "ViT-B", "ViT-g"] | None = None,
    batch_size: int = 8,
    rounds: int = 5,
    tower: bool = True,
    device: str = "auto",
    out: Path | None = None,
) -> None:
    """Print the paper's Table 6: parameters, FLOPs and clips per second of STGT, dense attention and CCT+MIT.

    CCT+MIT is the paper's baseline, with X-CLIP's cross-frame transformers in place of the graph.

    Args:
        size: Size of the models that are timed. If not given, it is the paper's ViT-g on a GPU, and the quickstart's
            size elsewhere. Parameters and FLOPs are always counted for ViT-g.
        batch_size: Number of clips that are embedded at a time.
        rounds: Number of times that each model is timed, in turns.
        tower: Time the vision tower as well; --no-tower begins with its tokens, as if they came from a cache.
        out: JSON file to write.
        device: The device that the model runs on; "auto" is a GPU where there is one.
    """
    from stgt.distributed import choose_device
    from stgt.files import write_json
    from stgt.paper.table6 import efficiency
    from stgt.terminal import say

    require_positive(batch_size=batch_size, rounds=rounds)
    place = choose_device(device)
    if out is not None:
        if out.is_dir():
            raise ValueError(f"--out is {out}, a folder, expected a JSON file")
        out.parent.mkdir(parents=True, exist_ok=True)
    size = size or ("ViT-g" if place.type == "cuda" else "quickstart")
    result = efficiency(size, place, batch_size=batch_size, rounds=rounds, tower=tower)
    if out is not None:
        write_json(out, result)
        say(f"the result is in {out}")
