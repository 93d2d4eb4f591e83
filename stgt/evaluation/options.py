"""The options of an evaluation."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from stgt.config import Rerank

MODEL = tyro.conf.arg(  # help and errors show an alias before the name, and --run is the older name of --model
    name="run",
    aliases=["--model"],
    help="The model: a run's folder, a folder that `stgt convert` or save_pretrained wrote, or a name on the hub.",
)


@dataclass(frozen=True)
class Evaluation:
    """The model to measure, the data to measure it on, and the places for the results."""

    model: Annotated[str | Path, MODEL]
    annotation: Path | None = None
    """Test annotation; the run's own if not given."""
    videos: Path | None = None
    """Folder of its videos; the run's own if not given."""
    k_test: int | None = None
    """Number of the most similar candidates that the matching head re-ranks, 32 (or all, if there are fewer) if not
    given; 0 for none."""
    candidates: tuple[int, ...] = ()
    """Numbers of re-ranked candidates, e.g. 1 8 16 32 64 128. Recall is measured with each of them as well, and
    candidates.png is drawn beside the result. 0 means that none are re-ranked."""
    captions: bool = False
    """Also write a caption for each test video with the generation head into captions.json, and measure BLEU-4 and
    CIDEr-D against the videos' own captions."""
    dual_softmax: bool = False
    """Also measure with dual softmax, which uses all test queries at once. Its figures are printed apart."""
    rerank: Rerank | None = None
    """The score that is added to the similarity: the matching probability (softmax), the raw logit, as in LAVIS, or the
    log-odds times the temperature (odds); the model's own if not given."""
    threshold: float | None = None
    """Graph threshold to test with; the model's own if not given."""
    beams: int | None = None
    """Number of texts that beam search follows at a time, 5 for answers and 3 for captions if not given; 1 is greedy
    search."""
    batch_size: int = 32
    """Videos per batch. The matching head uses batches of 4 times as many pairs."""
    tokenizer: str | None = None
    """The tokenizer's folder, or its name on the hub. It is needed for a model that is not a run, comes without a
    tokenizer and does not use BERT's."""
    features: Path | None = None
    """Folder to keep encoded videos and texts in, for this command and search; MODEL/features if not given."""
    out: Path | None = None
    """JSON file for the result; MODEL/evaluation.json if not given. Answers and captions are written into answers.json
    and captions.json beside it."""
    device: str = "auto"
    """The device that the model runs on; "auto" is a GPU where there is one."""
