"""A run from its configuration to its folder, and back: `config.json`, the tokenizer, the checkpoints, the log."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from stgt.config import DataConfig, ModelConfig, TrainConfig, differences, from_dict, to_dict
from stgt.data.annotations import load_captions
from stgt.data.datasets import RetrievalDataset, collate
from stgt.data.features import FeatureStore, tower_hash
from stgt.data.text import Tokenizer
from stgt.data.transforms import describe, test_transform, train_transform
from stgt.models.checkpoint import load_released
from stgt.models.pretrained import is_pretrained
from stgt.models.stgt import STGT
from stgt.training import checkpoint as ckpt
from stgt.training.distributed import choose_device, start_world
from stgt.training.randomness import seed_everything
from stgt.training.trainer import Trainer

logger = logging.getLogger(__name__)


class Run(NamedTuple):
    """A trained run, as its folder has it."""

    config: TrainConfig
    model: STGT
    tokenizer: Tokenizer
    checkpoint: Path


def train(config: TrainConfig) -> None:
    """Train, from the start or from the last checkpoint in `config.out`.

    Everything that can be wrong with the configuration, the folder, the data and the feature cache is found first, and
    raised as ValueError or CheckpointError before the run folder is touched.
    """
    world = start_world(config.device)
    try:
        tokenizer = make_tokenizer(config)
        config = fit_to_tokenizer(config, tokenizer)
        require_same_run(config)
        features = None if config.data.features is None else FeatureStore(config.data.features)
        items = training_data(config, tokenizer, features)
        seed_everything(config.seed)
        model = make_model(config.model)
        if features is not None:
            require_features(features, items, model)
        if not ckpt.checkpoints(config.out) and config.init is not None:
            start_from(model, config.init)
        trainer = Trainer(config, model, items, collate, world)
        if world.is_main:
            config.out.mkdir(parents=True, exist_ok=True)
            tokenizer.save(config.out / "tokenizer")
            ckpt.write_json(config.out / "config.json", to_dict(config))
        trainer.fit()
    finally:
        world.close()


def load_run(folder: Path, device: str = "auto") -> Run:
    """The model of a run's last checkpoint, ready to evaluate. Raises CheckpointError for a folder that holds none."""
    checkpoint = ckpt.latest_checkpoint(folder)
    config = from_dict(TrainConfig, ckpt.read_state(checkpoint)["config"])
    model = make_model(config.model)
    ckpt.load_model(model, checkpoint)
    return Run(config, model.to(choose_device(device)).eval(), Tokenizer.load(folder / "tokenizer"), checkpoint)


def make_model(config: ModelConfig) -> STGT:
    """The model; ValueError if its pretrained tower cannot be had."""
    try:
        return STGT(config)
    except RuntimeError as error:
        if config.vision.pretrained is None:
            raise
        raise ValueError(f"VisionConfig.pretrained is {config.vision.pretrained!r}: {error}") from error


def make_tokenizer(config: TrainConfig) -> Tokenizer:
    """The run's tokenizer: the folder's own if it was started before, else as `data.tokenizer` says."""
    saved, name = config.out / "tokenizer", config.data.tokenizer
    if (config.out / "config.json").exists():
        return Tokenizer.load(saved)
    if name == "train":
        captions = [caption for clip in load_captions(config.data.train) for caption in clip.captions]
        return Tokenizer.train(captions, config.data.tokenizer_size)
    return Tokenizer.from_pretrained(name)


def fit_to_tokenizer(config: TrainConfig, tokenizer: Tokenizer) -> TrainConfig:
    """The configuration with the tokenizer's sizes and ids in the model's."""
    sizes = dict(
        vocab_size=tokenizer.vocab_size, bos_token_id=tokenizer.bos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    return replace(config, model=replace(config.model, qformer=replace(config.model.qformer, **sizes)))


def require_same_run(config: TrainConfig) -> None:
    """Raise ValueError if the run folder was started with a configuration whose result would be another."""
    path = config.out / "config.json"
    if not path.exists():
        return
    if differing := differences(to_dict(config), json.loads(path.read_text())):
        listed = "\n  ".join(differing)
        raise ValueError(
            f"{config.out} holds a run of another configuration:\n  {listed}\n"
            "repeat the command with the values there to go on with that run, or choose another folder with --out"
        )


def training_data(config: TrainConfig, tokenizer: Tokenizer, features: FeatureStore | None) -> RetrievalDataset:
    """The training pairs."""
    data, size = config.data, config.model.vision.image_size
    return RetrievalDataset(
        data.train,
        data.videos,
        frames=data.frames,
        transform=train_transform(size, flip=data.flip) if data.augment else test_transform(size),
        tokenizer=tokenizer,
        max_length=config.model.qformer.max_text_length,
        sampling=data.sampling,
        train=True,
        max_replacements=data.max_replacements,
        cache=data.cache,
        features=features,
    )


def evaluation_data(data: DataConfig, image_size: int) -> RetrievalDataset:
    """The videos and captions of `data.test`."""
    return RetrievalDataset(
        data.test, data.videos, frames=data.frames, transform=test_transform(image_size), cache=False
    )


def require_features(features: FeatureStore, items: RetrievalDataset, model: STGT) -> None:
    """Raise ValueError unless the cache holds what the frozen tower would give for these items."""
    vision = model.config.vision
    if vision.open_blocks != 0:
        raise ValueError(f"data.features is given, but vision.open_blocks={vision.open_blocks} trains the tower")
    features.require(
        tower=tower_hash(model.vision.state_dict(), vision),
        transform=describe(items.transform),
        frames=items.frames,
        sampling=items.sampling,
    )


def start_from(model: STGT, init: Path) -> None:
    """Load another run's last weights, a folder of `save_pretrained`, or a released checkpoint."""
    if is_pretrained(init) or not init.is_dir():
        load_released(model, init)
        return
    checkpoint = ckpt.latest_checkpoint(init)
    ckpt.load_model(model, checkpoint)
    theirs = ckpt.read_state(checkpoint)["config"]["model"]
    for line in differences(to_dict(model.config), theirs, "model."):
        logger.info("starting from %s, whose weights were trained with another %s", checkpoint, line)
