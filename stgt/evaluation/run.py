"""The commands that ask something of a trained run: evaluate, search."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from stgt.config import DataConfig
from stgt.data.datasets import RetrievalDataset, collate
from stgt.data.video import read_frames
from stgt.evaluation.retrieval import (
    Match,
    Texts,
    Videos,
    encode_texts,
    encode_videos,
    format_figures,
    retrieval_figures,
)
from stgt.evaluation.search import Hit, indexed_videos, search
from stgt.evaluation.vqa import evaluate_answers
from stgt.figures.results import draw_results
from stgt.training.checkpoint import file_hash, read_state, write_json
from stgt.training.run import Run, evaluation_data, load_run
from stgt.training.trainer import DTYPES


def evaluate(
    folder: Path,
    annotation: Path | None = None,
    videos: Path | None = None,
    k_test: int = 32,
    rerank: Match = "softmax",
    threshold: float | None = None,
    beams: int = 5,
    batch_size: int = 32,
    out: Path | None = None,
    device: str = "auto",
) -> dict:
    """Print and write the figures of a run's last checkpoint; see `stgt evaluate --help`."""
    run = load_run(folder, device)
    if threshold is not None:
        for block in run.model.graph.blocks:
            block.config = replace(block.config, threshold=threshold)
    data = replace(run.config.data, test=annotation or run.config.data.test, videos=videos or run.config.data.videos)
    out = out or folder / "evaluation.json"
    with precision(run):
        if run.config.model.language is None:
            result = _evaluate_retrieval(run, data, k_test, rerank, batch_size)
        else:
            result = evaluate_answers(run, data, out.with_name("answers.json"), beams=beams, batch_size=batch_size)
    result |= {
        "checkpoint": str(run.checkpoint),
        "step": read_state(run.checkpoint)["step"],
        "threshold": run.config.model.graph.threshold if threshold is None else threshold,
    }
    write_json(out, result)
    return result


def _evaluate_retrieval(run: Run, data: DataConfig, k_test: int, rerank: Match, batch_size: int) -> dict:
    clips = evaluation_data(data, run.config.model.vision.image_size)
    split = {
        "annotation": str(data.test),
        "sha256": file_hash(data.test),
        "videos": len(clips.videos),
        "captions": len(clips.captions),
        "distinct_captions": len({caption for _, caption in clips.captions}),
    }
    print("{annotation}: {videos} videos, {captions} captions, {distinct_captions} of them distinct".format(**split))
    print(f"sha256 {split['sha256']}")
    texts = encode_captions(run, [caption for _, caption in clips.captions])
    owner = [video for video, _ in clips.captions]
    encoded = encode_clips(run, clips, batch_size)
    figures = retrieval_figures(run.model, encoded, texts, owner, k_test=k_test, kind=rerank)
    print(format_figures(figures))
    return {"split": split, "k_test": min(k_test, max(split["videos"], split["captions"])), "rerank": rerank, **figures}


def answer(folder: Path, sentence: str, top: int = 5, figure: Path | None = None, device: str = "auto") -> list[Hit]:
    """Print the clips of a run's test split that fit a sentence best; see `stgt search --help`."""
    run = load_run(folder, device)
    require_retrieval(run, folder)
    clips = evaluation_data(run.config.data, run.config.model.vision.image_size)
    with precision(run):
        found = search(run.model, index(folder, run, clips), encode_captions(run, [sentence]), top=top)
    for place, hit in enumerate(found, start=1):
        print(f"{place:3}.  {hit.score:.3f}  {clips.root / clips.videos[hit.video]}")
    if figure is not None:
        shown = [
            (clips.videos[hit.video], hit.score, frames_of(clips.root / clips.videos[hit.video], run)) for hit in found
        ]
        draw_results(sentence, shown, figure)
        print(f"drawn in {figure}")
    return found


def require_retrieval(run: Run, folder: Path) -> None:
    """Raise ValueError for a run whose model answers questions, and has no text side to compare with."""
    if run.config.model.language is not None:
        raise ValueError(f"{folder} is a question answering run, expected a retrieval run, e.g. of recipe quickstart")


def precision(run: Run) -> AbstractContextManager:
    """The autocast that the run was trained under."""
    kind = next(run.model.parameters()).device.type
    return torch.autocast(kind, DTYPES[run.config.precision], enabled=run.config.precision != "fp32")


def encode_captions(run: Run, captions: list[str]) -> Texts:
    """Encode sentences with the run's tokenizer and model."""
    return encode_texts(run.model, *run.tokenizer.encode(captions, run.config.model.qformer.max_text_length))


def encode_clips(run: Run, clips: RetrievalDataset, batch_size: int = 32) -> Videos:
    """Encode every clip of an evaluation data set."""
    loader = DataLoader(clips, batch_size, num_workers=run.config.data.workers, collate_fn=collate)
    return encode_videos(run.model, tqdm(loader, desc="videos", unit="batch", disable=len(loader) < 8))


def index(folder: Path, run: Run, clips: RetrievalDataset) -> Videos:
    """The encoded test clips of a run, kept in its folder while weights and annotation stay what they are."""
    weights, annotation = file_hash(run.checkpoint / "model.safetensors"), file_hash(run.config.data.test)
    key = f"weights {weights} annotation {annotation} videos {clips.root} frames {clips.frames}"
    return indexed_videos(folder, key, lambda: encode_clips(run, clips))


def frames_of(video: Path, run: Run) -> Tensor:
    """The frames of a clip as the model sees them, uint8 (T, S, S, 3)."""
    size = run.config.model.vision.image_size
    frames = read_frames(video, run.config.data.frames).permute(0, 3, 1, 2)
    resized = torch.nn.functional.interpolate(frames.float(), (size, size), mode="bilinear", antialias=True)
    return resized.round().clamp(0, 255).byte().permute(0, 2, 3, 1)
