"""Opens trained models: from the folder of a run, or from a folder that `stgt convert` or `save_pretrained` wrote."""

from __future__ import annotations

import os
import re
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from stgt import checkpoint as ckpt
from stgt.config import DataConfig, LossConfig, TrainConfig, from_dict
from stgt.data.pixels import read_pixels
from stgt.data.prompts import LanguageTokenizer
from stgt.data.samples import PairDataset
from stgt.data.text import Tokenizer
from stgt.distributed import choose_device
from stgt.files import write_text
from stgt.integrity import CHECKSUMS, checksum_lines, has_checksums, verify_checksums
from stgt.models.precision import DTYPES
from stgt.models.stgt import STGT
from stgt.models.vqa import VideoQA
from stgt.paths import given_path
from stgt.tasks import RETRIEVAL, Task, task_of
from stgt.weights.pretrained import CONFIG, HEADS, Training, download, is_pretrained, read_training


class Run(NamedTuple):
    """A trained model with everything that it needs, ready to evaluate."""

    config: TrainConfig
    model: STGT | VideoQA
    tokenizer: Tokenizer | LanguageTokenizer | None
    checkpoint: Path
    """The run's checkpoint, or the folder itself if it is not a run"""

    @property
    def task(self) -> Task:
        return task_of(self.config.model)

    @property
    def device(self) -> torch.device:
        """The device that the model runs on."""
        return next(self.model.parameters()).device

    @property
    def training(self) -> Training:
        """The facts about the training that a folder of the model alone has to tell."""
        untrained = tuple(head for head, weight in HEADS.items() if getattr(self.config.loss, weight) == 0)
        data = self.config.data
        return Training(untrained, data.frames, data.decoder, self.config.precision)

    def require_trained(self, head: str, use: str) -> None:
        """Raise ValueError, which names the `use`, if the training left this head out."""
        if head in self.training.untrained:
            raise ValueError(
                f"{use}: {self.checkpoint} was trained with loss.{HEADS[head]}=0, expected a model with a trained "
                f"{head} head"
            )

    def test_items(self, data: DataConfig | None = None, **options: object) -> PairDataset:
        """The videos of `data.test` in the form for evaluation. Without `data`, it is the run's own test split."""
        data = data or self.config.data
        return self.task.items(data.test, data, self.config.model.vision.sizes.image_size, **options)


class Place(NamedTuple):
    """The folder of a model, and the folder for the results of commands that use the model."""

    folder: Path
    out: Path


def find_model(name: str | Path) -> Place:
    """The folder of a model.

    A model of the Hugging Face hub is downloaded, and the results about it go to runs/OWNER--NAME. A name that is no
    path on this machine is one on the hub if it has the form OWNER/NAME, and there is no folder OWNER here.
    Raises ValueError for any other name, and OSError if the hub does not have the model.
    """
    if not isinstance(name, (str, os.PathLike)) or not os.fspath(name):
        raise ValueError(f"name is {name!r}, expected the folder of a model, or OWNER/NAME of one on the hub")
    folder = given_path(name)
    if folder.is_file():
        raise ValueError(
            f"{name} is a file, expected the folder of a model; `stgt convert {name} --out FOLDER` makes one of a file "
            "of weights"
        )
    if folder.exists():
        return Place(folder, folder)
    if folder.parent.exists() or not re.fullmatch(r"[\w.-]+/[\w.-]+", str(name)):
        raise ValueError(
            f"{name}: no such folder, expected that of a run, one that `stgt convert` or save_pretrained wrote, or "
            "OWNER/NAME of a model on the Hugging Face hub"
        )
    return Place(download(str(name)), Path("runs") / str(name).replace("/", "--"))


def load_run(folder: Path, device: str = "auto") -> Run:
    """The model of a run, ready to evaluate, from the best checkpoint on `data.val`, or else from the last checkpoint.

    Raises CheckpointError for a folder that holds no checkpoint.
    """
    checkpoint = ckpt.chosen_checkpoint(folder)
    config = saved_config(checkpoint)
    task = task_of(config.model)
    model = task.make_model(config.model)
    ckpt.load_model(model, checkpoint)
    return Run(config, model.to(choose_device(device)).eval(), task.load_tokenizer(folder / "tokenizer"), checkpoint)


def saved_config(checkpoint: Path) -> TrainConfig:
    """The configuration that a checkpoint was trained with. Raises CheckpointError if it makes no sense."""
    try:
        return from_dict(TrainConfig, ckpt.read_state(checkpoint)["config"])
    except ValueError as error:
        raise ckpt.CheckpointError(f"{checkpoint / ckpt.STATE}: config: {error}") from None


def open_run(folder: Path, device: str = "auto", tokenizer: str | None = None, *, words: bool = True) -> Run:
    """The model of a folder, ready to evaluate. The folder is a run, or `save_pretrained` or `stgt convert` wrote it.

    The checkpoint of a model that is not a run is the folder itself. It computes in the precision that the folder says,
    or else in float32, and reads as many frames as the folder says, or else as many as it has temporal embeddings. Its
    tokenizer is `tokenizer` (a folder, or a name on the hub), or else the one in the folder, or else BERT's.
    words=False leaves the tokenizer out.
    Raises ValueError if the tokenizer does not fit the model, and CheckpointError for a folder that holds no model.
    """
    if not is_pretrained(folder):
        if tokenizer is not None:
            raise ValueError(f"tokenizer is {tokenizer!r}, expected none, because {folder} is a run and has its own")
        return load_run(folder, device)
    model = STGT.from_pretrained(folder).to(choose_device(device))
    found = _tokenizer(folder, tokenizer, model.config.qformer.vocab_size) if words else None
    training, workers = read_training(folder / CONFIG), min(DataConfig.workers, os.cpu_count() or 1)
    frames = training.frames or model.config.graph.frames
    data = DataConfig(frames=frames, decoder=training.decoder, workers=workers)
    loss = LossConfig(**{HEADS[head]: 0.0 for head in training.untrained})
    config = TrainConfig(model=model.config, loss=loss, data=data, precision=training.precision)
    return Run(config, model, found, folder)


def open_retrieval(folder: Path, device: str = "auto", tokenizer: str | None = None) -> Run:
    """Like `open_run`, for a retrieval model. Raises ValueError for a model that answers questions."""
    run = open_run(folder, device, tokenizer)
    require_task(run, RETRIEVAL, folder)
    return run


def require_task(run: Run, task: Task, folder: Path) -> None:
    """Raise ValueError unless the model of this folder has the task."""
    if run.task is not task:
        raise ValueError(f"{folder} is {run.task.described.partition(',')[0]}, expected {task.described}")


def _tokenizer(folder: Path, name: str | None, expected: int) -> Tokenizer:
    words = _find_tokenizer(folder, name)
    if words.vocab_size != expected:
        raise ValueError(
            f"{folder} has a model of {expected} words, but the tokenizer ({name or 'found there'}) has "
            f"{words.vocab_size}: expected the tokenizer that the model was trained with, given by --tokenizer"
        )
    return words


def _find_tokenizer(folder: Path, name: str | None) -> Tokenizer:
    if name is not None:
        return Tokenizer.from_pretrained(name)
    if (stored := stored_tokenizer(folder)) is not None:
        return stored
    try:
        return Tokenizer.from_pretrained("bert-base-uncased")
    except OSError as error:
        raise OSError(
            f"{folder} holds no tokenizer, and the Hugging Face hub did not give 'bert-base-uncased': expected "
            "--tokenizer with the folder of the tokenizer that the model was trained with (vocab.txt or tokenizer.json)"
        ) from error


def stored_tokenizer(folder: Path) -> Tokenizer | None:
    """The tokenizer in the folder of a model alone, or None if it has none. Raises ValueError if it is damaged."""
    for place in (folder / "tokenizer", folder):
        if any((place / file).is_file() for file in ("vocab.txt", "tokenizer.json")):
            if has_checksums(place):
                verify_checksums(place)
            return Tokenizer.load(place)
    return None


def save_model(run: Run, folder: Path) -> None:
    """Write a retrieval model, its tokenizer and the way in which it reads videos as a folder for `open_run`."""
    run.model.save_pretrained(folder, training=run.training)
    save_tokenizer(run.tokenizer, folder / "tokenizer")


def save_tokenizer(tokenizer: Tokenizer | LanguageTokenizer, folder: Path) -> None:
    """Save a tokenizer with the checksums of its files."""
    tokenizer.save(folder)
    write_text(folder / CHECKSUMS, checksum_lines(folder))


def data_of(run: Run, annotation: Path | None = None, videos: Path | None = None) -> DataConfig:
    """A run's data, with the given test annotation and folder of videos in place of its own.

    Raises ValueError for a folder that is not a run, and so has no data of its own, unless both are given.
    """
    if is_pretrained(run.checkpoint) and (annotation is None or videos is None):
        absent = [name for name, path in (("--annotation", annotation), ("--videos", videos)) if path is None]
        raise ValueError(f"{run.checkpoint} holds a model and names no data, expected {' and '.join(absent)} as well")
    return replace(run.config.data, test=annotation or run.config.data.test, videos=videos or run.config.data.videos)


def precision(run: Run) -> AbstractContextManager:
    """The autocast that the run was trained under."""
    name = run.config.precision
    return torch.autocast(run.device.type, DTYPES[name], enabled=name != "fp32")


def read_video_pixels(run: Run, video: Path) -> Tensor:
    """The pixels of a video file in the form for the run's model: (1, T, 3, S, S), on the model's device."""
    data, size = run.config.data, run.config.model.vision.sizes.image_size
    return read_pixels(video, data.frames, size, **data.decoding)[None].to(run.device)
