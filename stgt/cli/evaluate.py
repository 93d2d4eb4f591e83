"""`stgt evaluate`."""

from __future__ import annotations

import os
from typing import Annotated

import tyro

from stgt.evaluation.options import Evaluation


def evaluate(options: Annotated[Evaluation, tyro.conf.arg(name="")]) -> None:
    """Measure a model: retrieval in both directions, or the answers to questions.

    If retrieval was killed, the same command goes on with it. All processes that torchrun starts share the
    work: `torchrun --nproc-per-node 8 -m stgt evaluate …`.
    """
    from functools import partial

    from stgt.evaluation.run import evaluate
    from stgt.figures.attempt import try_to_draw
    from stgt.figures.candidates import draw_candidates
    from stgt.runs import find_model

    result = evaluate(options)
    if "candidates" in result and int(os.environ.get("RANK", "0")) == 0:
        folder = find_model(options.model).out if options.out is None else options.out.parent
        try_to_draw(partial(draw_candidates, result["candidates"]), folder / "candidates.png")
