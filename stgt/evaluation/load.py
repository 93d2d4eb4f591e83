"""What the commands read: a run's folder, or one that `stgt convert` or `save_pretrained` wrote."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

import torch

from stgt.config import DataConfig, TrainConfig
from stgt.data.text import Tokenizer
from stgt.distributed import choose_device
from stgt.integrity import has_checksums, verify_checksums
from stgt.models.stgt import STGT
from stgt.training.run import Run, load_run
from stgt.training.trainer import DTYPES
from stgt.weights.pretrained import is_pretrained


def open_run(folder: Path, device: str = "auto", tokenizer: str | None = None) -> Run:
    """The model of a folder, ready to evaluate: a run's last checkpoint, or what `save_pretrained` wrote.

    The latter computes in float32, and its checkpoint is the folder itself. Its tokenizer is `tokenizer` (a folder, or
    a name on the hub), or else the one in the folder, or else BERT's.
    Raises ValueError for a tokenizer that is not the model's, CheckpointError for a folder that holds no model.
    """
    if not is_pretrained(folder):
        if tokenizer is not None:
            raise ValueError(f"tokenizer is {tokenizer!r}, but {folder} is a run, expected none: a run has its own")
        return load_run(folder, device)
    model = STGT.from_pretrained(folder).to(choose_device(device))
    words = _tokenizer(folder, tokenizer)
    if words.vocab_size != (expected := model.config.qformer.vocab_size):
        raise ValueError(
            f"{folder} has a model of {expected} words, but the tokenizer ({tokenizer or 'found there'}) has "
            f"{words.vocab_size}: expected the one that it was trained with, given with --tokenizer"
        )
    data = DataConfig(frames=model.config.graph.frames, workers=min(DataConfig.workers, os.cpu_count() or 1))
    return Run(TrainConfig(model=model.config, data=data, precision="fp32"), model, words, folder)


def _tokenizer(folder: Path, name: str | None) -> Tokenizer:
    if name is not None:
        return Tokenizer.from_pretrained(name)
    for place in (folder / "tokenizer", folder):
        if any((place / file).is_file() for file in ("vocab.txt", "tokenizer.json")):
            if has_checksums(place):
                verify_checksums(place)
            return Tokenizer.load(place)
    try:
        return Tokenizer.from_pretrained("bert-base-uncased")
    except OSError as error:
        raise OSError(
            f"{folder} holds no tokenizer, and the Hugging Face hub did not give 'bert-base-uncased': expected "
            "--tokenizer with the folder of the one that the model was trained with (vocab.txt or tokenizer.json)"
        ) from error


def data_of(run: Run, annotation: Path | None = None, videos: Path | None = None) -> DataConfig:
    """A run's data with another test annotation or folder of videos, where they are given.

    Raises ValueError for a folder that is no run, and so knows none, unless both are given.
    """
    if is_pretrained(run.checkpoint) and (annotation is None or videos is None):
        absent = "--annotation" if annotation is None else "--videos"
        raise ValueError(f"{run.checkpoint} holds a model and knows no data, expected {absent} as well")
    return replace(run.config.data, test=annotation or run.config.data.test, videos=videos or run.config.data.videos)


def require_retrieval(run: Run, folder: Path) -> None:
    """Raise ValueError for a run whose model answers questions, and has no text side to compare with."""
    if run.config.model.language is not None:
        raise ValueError(f"{folder} is a question answering run, expected a retrieval run, e.g. of recipe quickstart")


def precision(run: Run) -> AbstractContextManager:
    """The autocast that the run was trained under."""
    kind = next(run.model.parameters()).device.type
    return torch.autocast(kind, DTYPES[run.config.precision], enabled=run.config.precision != "fp32")
