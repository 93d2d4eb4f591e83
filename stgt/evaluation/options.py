"""The options of an evaluation."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

MODEL = tyro.conf.arg(
    aliases=["--run"],
    help="The model: a run's folder, one that `stgt convert` or save_pretrained wrote, or its name on the hub.",
)


@dataclass(frozen=True)
class Evaluation:
    """What is measured, on which data, and where the results go."""

    model: Annotated[str | Path, MODEL]
    annotation: Path | None = None
    """Test annotation; the run's own if not given."""
    videos: Path | None = None
    """Folder of its videos; the run's own if not given."""
    k_test: int | None = None
    """How many of the most similar are re-ranked by the matching head: 0 for none; if not given 32, or all of fewer."""
    candidates: tuple[int, ...] = ()
    """Also measure recall with each of these numbers re-ranked, e.g. 1 8 16 32 64 128, and draw candidates.png beside
    the result; 0 is for none."""
    rerank: Literal["softmax", "logit"] | None = None
    """What is added to the similarity: the matching probability (softmax, the default), or the raw logit of LAVIS."""
    threshold: float | None = None
    """Graph threshold to test with; the model's own if not given."""
    beams: int | None = None
    """How many answers to a question are followed at a time, 5 if not given; 1 is greedy."""
    batch_size: int = 32
    """Videos per batch. The matching head uses batches of 4 times as many pairs."""
    tokenizer: str | None = None
    """A folder or a hub's name of the tokenizer, for a model that is no run, brings none and does not use BERT's."""
    features: Path | None = None
    """Folder to keep encoded videos and texts in, for this command and search; MODEL/features if not given."""
    out: Path | None = None
    """JSON file of the result; MODEL/evaluation.json if not given. Answers are written into answers.json beside it."""
    device: str = "auto"
    """Where the model computes; "auto" is a GPU where there is one."""
