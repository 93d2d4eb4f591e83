"""The commands that say something of one video in words: caption, ask."""

from __future__ import annotations

from pathlib import Path

import torch

from stgt.models.captioning import beam_captions, sample_captions
from stgt.runs import load_run, open_retrieval, precision, read_clip, require_task
from stgt.tasks import QUESTIONS
from stgt.terminal import say


@torch.inference_mode()
def caption(
    folder: Path,
    video: Path,
    beams: int = 3,
    top_p: float | None = None,
    count: int = 1,
    seed: int = 0,
    device: str = "auto",
) -> list[str]:
    """Print captions of a video by a run's last checkpoint, or by a folder's model; see `stgt caption --help`."""
    run = open_retrieval(folder, device)
    if run.config.loss.vtg == 0:
        raise ValueError(f"{folder} was trained with loss.vtg=0, expected a run that learnt to generate")
    end = run.tokenizer.sep_token_id
    with precision(run):
        embeds = run.model.encode_video(read_clip(run, video)).embeds
        if top_p is None:
            ids = beam_captions(run.model, embeds, end=end, beams=beams)
        else:
            generator = torch.Generator(embeds.device).manual_seed(seed)
            embeds = embeds.expand(count, -1, -1)
            ids = sample_captions(run.model, embeds, end=end, top_p=top_p, generator=generator)
    captions = [run.tokenizer.decode(row) for row in ids]
    say(*captions)
    return captions


@torch.inference_mode()
def ask(folder: Path, video: Path, question: str, beams: int = 5, device: str = "auto") -> str:
    """Print the answer to a question about a video; see `stgt ask --help`."""
    run = load_run(folder, device)
    require_task(run, QUESTIONS, folder)
    with precision(run):
        pixels = read_clip(run, video)
        queries, _ = run.model.encode_video(pixels)
        ids, mask = (tensor.to(pixels.device) for tensor in run.tokenizer.encode_prompts([question]))
        written = run.model.answer(queries, ids, mask, end=run.tokenizer.eos_token_id, beams=beams)
    (answer,) = run.tokenizer.decode(written)
    say(answer)
    return answer
