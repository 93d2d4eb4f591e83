"""The commands that say something of one video in words: caption, ask."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from stgt.data.pixels import read_pixels
from stgt.evaluation.load import open_run, precision, require_retrieval
from stgt.models.captioning import beam_captions, sample_captions
from stgt.terminal import say
from stgt.training.run import Run, load_run


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
    run = open_run(folder, device)
    require_retrieval(run, folder)
    if run.config.loss.vtg == 0:
        raise ValueError(f"{folder} was trained with loss.vtg=0, expected a run that learnt to generate")
    end = run.tokenizer.sep_token_id
    with precision(run):
        embeds = run.model.encode_video(_pixels(video, run)).embeds
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
    if run.config.model.language is None:
        raise ValueError(f"{folder} is a retrieval run, expected one of question answering, e.g. of recipe vqa_shapes")
    with precision(run):
        pixels = _pixels(video, run)
        queries, _ = run.model.encode_video(pixels)
        ids, mask = (tensor.to(pixels.device) for tensor in run.tokenizer.encode_prompts([question]))
        written = run.model.answer(queries, ids, mask, end=run.tokenizer.eos_token_id, beams=beams)
    (answer,) = run.tokenizer.decode(written)
    say(answer)
    return answer


def _pixels(video: Path, run: Run) -> Tensor:
    """(1, T, 3, S, S) of a video file, as evaluation sees it."""
    pixels = read_pixels(video, run.config.data.frames, run.config.model.vision.image_size, **run.config.data.decoding)
    return pixels[None].to(next(run.model.parameters()).device)
