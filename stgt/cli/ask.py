"""`stgt ask`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tyro

from stgt.cli.options import Model, require_positive


def ask(
    video: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="VIDEO")],
    question: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="QUESTION")],
    model: Model,
    beams: int = 5,
    device: str = "auto",
) -> None:
    """Answer a question about a clip, with a question answering run.

    Args:
        video: The video file.
        question: The question, e.g. "what colour is the square?".
        beams: Number of answers that beam search follows at a time; 1 is greedy search.
        device: The device that the model runs on; "auto" is a GPU where there is one.
    """
    import torch

    from stgt.data.text import clean_text
    from stgt.runs import find_model, open_run, precision, read_video_pixels, require_task
    from stgt.tasks import QUESTIONS
    from stgt.terminal import say

    require_positive(beams=beams)
    if not clean_text(question):
        raise ValueError(f"the question is {question!r}, expected one with a word in it")
    place = find_model(model)
    run = open_run(place.folder, device, words=False)
    require_task(run, QUESTIONS, place.folder)
    with torch.inference_mode(), precision(run):
        queries, _ = run.model.encode_video(read_video_pixels(run, video))
        ids, mask = (tensor.to(run.device) for tensor in run.tokenizer.encode_prompts([question]))
        written = run.model.answer(queries, ids, mask, end=run.tokenizer.eos_token_id, beams=beams)
    say(*run.tokenizer.decode(written))
