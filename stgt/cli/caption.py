"""`stgt caption`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tyro

from stgt.cli.options import Model, refuse, require_positive, require_seed


def caption(
    video: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="VIDEO")],
    model: Model,
    beams: int | None = None,
    top_p: float | None = None,
    count: int | None = None,
    seed: int | None = None,
    device: str = "auto",
) -> None:
    """Write captions for a clip, with the generation head of a retrieval run.

    Args:
        video: The video file.
        beams: Number of captions that beam search follows at a time, 3 if not given; 1 is greedy search.
        top_p: In place of beam search, draw each word from the smallest set of words with this total probability.
        count: Number of captions that are drawn with top_p, 1 if not given.
        seed: Seed of the draws with top_p, 0 if not given.
        device: The device that the model runs on; "auto" is a GPU where there is one.
    """
    import torch

    from stgt.models.captioning import beam_captions, sample_captions
    from stgt.runs import find_model, open_retrieval, precision, read_video_pixels
    from stgt.terminal import say

    require_positive(beams=beams, count=count)
    if top_p is None:
        refuse("with --top-p only", count=count, seed=seed)
    else:
        refuse("without --top-p only, because --top-p draws the words at random", beams=beams)
    require_seed(seed)
    run = open_retrieval(find_model(model).folder, device)
    run.require_trained("generation", "captions cannot be written")
    end = run.tokenizer.sep_token_id
    with torch.inference_mode(), precision(run):
        embeds = run.model.encode_video(read_video_pixels(run, video)).embeds
        if top_p is None:
            ids = beam_captions(run.model, embeds, end=end, beams=beams or 3)
        else:
            generator = torch.Generator(embeds.device).manual_seed(seed or 0)
            embeds = embeds.expand(count or 1, -1, -1)
            ids = sample_captions(run.model, embeds, end=end, top_p=top_p, generator=generator)
    say(*(run.tokenizer.decode(row) for row in ids))
