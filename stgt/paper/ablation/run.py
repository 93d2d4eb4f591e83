"""The command `stgt ablate`: simulates clips, trains the grid of runs, and writes Markdown, JSON and a picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from stgt.config import TrainConfig, to_dict
from stgt.data.shapes import render_motions, render_shapes
from stgt.data.shapes.motion import GROUP
from stgt.distributed import choose_device
from stgt.figures.attempt import try_to_draw
from stgt.files import write_json, write_text
from stgt.ownership import owned
from stgt.paper.ablation.grid import MOTIONS, Measured, measure
from stgt.paper.ablation.hits import CHANCE
from stgt.paper.ablation.plot import Results, draw
from stgt.paper.ablation.studies import STUDIES, base_run
from stgt.paper.ablation.table import chance, difference_table, study_table
from stgt.terminal import say


@dataclass(frozen=True)
class Size:
    """The size of the ablations: seeds, epochs, and clips for training and for testing."""

    seeds: int
    epochs: int
    clips: int
    test_clips: int
    full: bool = False
    """Whether the model has the quickstart's whole size"""

    @property
    def groups(self) -> int:
        """The number of groups for the test of motion, which has about as many clips as the other test."""
        return -(-self.test_clips // GROUP)

    def require(self, batch_size: int) -> None:
        for name, low in (("seeds", 1), ("clips", batch_size), ("test_clips", 1)):
            if getattr(self, name) < low:
                of_batch = ", one batch" if name == "clips" else ""
                raise ValueError(f"{name} is {getattr(self, name)}, expected at least {low}{of_batch}")


def ablate(names: Sequence[str], size: Size, out: Path, device: str = "auto") -> None:
    """Run the named studies, or all if none is named, and print their tables; see `stgt ablate --help`."""
    chosen = list(dict.fromkeys(names)) or list(STUDIES)
    base = base_run(out / "clips", size.epochs, out, device, full=size.full)
    size.require(base.batch_size)
    choose_device(device)
    with owned(out):
        _ablate(chosen, size, base, out)


def _ablate(chosen: Sequence[str], size: Size, base: TrainConfig, out: Path) -> None:
    render_shapes(out / "clips", train=size.clips, test=size.test_clips)
    render_motions(out / MOTIONS, groups=size.groups)
    studies = [study for name in chosen for study in STUDIES[name]]
    results = [(study, measure(study, base, range(size.seeds))) for study in studies]
    page = _page(results, chosen, size, base)
    print(f"\n{page}")
    write_text(out / "ablations.md", page)
    write_json(out / "ablations.json", _record(results, size, base))
    drawn = try_to_draw(partial(draw, results), out / "ablations.png")
    say(f"written: {out / 'ablations.md'}, {out / 'ablations.json'}" + (f", {out / 'ablations.png'}" if drawn else ""))


def _page(results: Results, names: Sequence[str], size: Size, base: TrainConfig) -> str:
    options = [f"--seeds {size.seeds}", f"--epochs {size.epochs}", f"--clips {size.clips}"]
    options += [f"--test-clips {size.test_clips}", *(["--full"] if size.full else [])]
    command = " ".join(["stgt ablate", *names, *options])
    vision = base.model.vision.sizes
    seeds = "One seed" if size.seeds == 1 else f"{size.seeds} seeds: mean ± standard deviation (n−1)"
    parts = [
        f"# Ablations on simulated clips\n\nWritten by `{command}`.",
        f"- Trained from scratch on {size.clips} simulated clips, tested on {size.test_clips} others; epochs: "
        f"{size.epochs}, batches of {base.batch_size}, {base.data.frames} frames of {vision.grid}×{vision.grid} "
        f"patches, {vision.width} channels.\n"
        f"- {seeds}. Values are percentages of text-to-video retrieval unless stated otherwise; the 32 best are "
        "re-ranked, except for R@1 by similarity.\n"
        f"- Motion: the share of captions that are most similar to their own clip among {GROUP} clips with the same "
        f"two objects and other motions, on {size.groups * GROUP} clips.\n"
        f"- Guessing has an R-mean of {chance(size.test_clips):.1f}, and {CHANCE:.1f} in the test of motion. "
        "Differences within the spread mean nothing.",
    ]
    if any(variant.paper is not None for study, _ in results for variant in study.variants):
        parts.append(
            "The paper's own numbers are listed where we know them. They are for zero-shot retrieval on MSRVTT after "
            "pre-training on WebVid-10M at full size, so compare the order of the rows and not the values."
        )
    for study, runs in results:
        parts.append(f"## {study.title}\n\n{study_table(study, runs)}")
        if not study.tested and len(runs) > 1:
            parts.append(
                f"The rows minus the row of {study.variants[0].title}, in points, with the 95% interval of a paired "
                "bootstrap over the test clips. The results of a clip are averaged over the seeds first, so the "
                "intervals say nothing about other seeds. A star marks an interval that leaves 0 out.\n\n"
                + difference_table(study, runs)
            )
    return "\n\n".join(parts) + "\n"


def _record(results: Results, size: Size, base: TrainConfig) -> dict:
    studies = [
        {
            "title": study.title,
            "variants": [
                {"title": variant.title, "paper_r_mean": variant.paper, "runs": [_run(run) for run in measured]}
                for variant, measured in zip(study.variants, runs, strict=True)
            ],
        }
        for study, runs in results
    ]
    return {"size": vars(size), "torch": torch.__version__, "base": to_dict(base), "studies": studies}


def _run(run: Measured) -> dict:
    values = run._asdict()
    del values["hits"]
    return values | {"folder": str(run.folder), "motion": run.hits.motion}
