"""Training of a run, from its configuration to its folder: `config.json`, the tokenizer, checkpoints and the log."""

from __future__ import annotations

import logging
from contextlib import nullcontext
from dataclasses import asdict, replace

import torch

from stgt import checkpoint as ckpt
from stgt.config import GraphConfig, TrainConfig, differences, to_dict
from stgt.data.features import FeatureStore
from stgt.data.fingerprint import require_same
from stgt.data.processes import start_server
from stgt.data.samples import PairDataset
from stgt.data.transforms import describe
from stgt.distributed import World, start_world
from stgt.evaluation.validation import make_validation
from stgt.files import write_json
from stgt.models.encoder import VideoEncoder
from stgt.models.vqa import VideoQA
from stgt.ownership import owned
from stgt.randomness import seed_everything
from stgt.recipes import read_recipe
from stgt.runs import save_tokenizer
from stgt.structure import require_readable
from stgt.tasks import QUESTIONS, RETRIEVAL, task_of
from stgt.training.inputs import (
    fingerprint_file,
    forget_best_of_other_data,
    require_room_for_questions,
    require_same_data,
)
from stgt.training.start import start_from, starting_tokenizer
from stgt.training.trackers import require_service
from stgt.training.trainer import Trainer, own_batch
from stgt.weights.tower import tower_hash
from stgt_kernels import dispatch

logger = logging.getLogger(__name__)


def train(config: TrainConfig) -> None:
    """Train, from the start or from the last checkpoint in `config.out`.

    The configuration, the folder, the data and the feature cache are checked first. A mistake in them raises ValueError
    or CheckpointError before anything in the run folder is changed. A script calls this under
    `if __name__ == "__main__":`, because the processes that read videos import the script again, and otherwise
    UnguardedError is raised.
    """
    world = start_world(config.device)
    try:
        with owned(config.out) if world.is_main else nullcontext():
            _train(config, world)
    finally:
        world.close()


def _train(config: TrainConfig, world: World) -> None:
    require_readable(to_dict(config), "the configuration")  # the run's folder could not be read otherwise
    task = task_of(config.model)
    require_backend(config.model.graph, world.device)
    if config.log_to != "tensorboard":
        require_service(config.log_to)
    if world.is_main and config.vtc_epochs >= config.epochs:
        logger.warning(
            "vtc_epochs=%d leaves none of the %d epochs for loss.alignment='csal'", config.vtc_epochs, config.epochs
        )
    if world.is_main and task is QUESTIONS and (unused := _changed_losses(config)):
        logger.warning("questions have a loss of their own, so these settings change nothing: %s", ", ".join(unused))
    require_negatives(config, world.size)
    started = (config.out / "config.json").exists()  # it is written last, so the tokenizer is complete
    place = config.out / "tokenizer"
    tokenizer = task.load_tokenizer(place) if started else starting_tokenizer(config)
    config = replace(config, model=task.fit_to_tokenizer(config.model, tokenizer))
    require_same_run(config)
    if config.data.workers:
        start_server()
    features = None
    if config.data.features is not None:
        changed = dict(contents=config.data.check_contents, accept_changed=config.accept_changed_data)
        features = FeatureStore(config.data.features, **changed)
    items = task.training_items(config, tokenizer, features)
    seed_everything(config.seed)
    model = task.make_model(config.model)
    if isinstance(model, VideoQA):
        require_room_for_questions(config, tokenizer, model)
    if written := ckpt.checkpoints(config.out):
        if features is not None:  # the trainer reads the rest of the checkpoint
            ckpt.load_tower(model.vision, written[-1])
    elif config.init is not None:
        start_from(model, config.init)
    if features is not None:
        require_features(features, items, model, **changed)
    validation = None if config.data.val is None else make_validation(config, tokenizer, features, world)
    data = require_same_data(config, items, validation) if world.is_main else None
    trainer = Trainer(config, model, items, task.collate(tokenizer), world, validation, data and data.summary())
    if world.is_main:
        if not started:
            save_tokenizer(tokenizer, place)
        forget_best_of_other_data(config.out, data, validation, trainer.total)
        data.save(fingerprint_file(config.out))
        write_json(config.out / "config.json", to_dict(config))
    trainer.fit()


def _changed_losses(config: TrainConfig) -> list[str]:
    """The settings of the losses of retrieval that are not the defaults."""
    default = asdict(TrainConfig().loss)
    changed = [f"loss.{name}" for name, value in asdict(config.loss).items() if value != default[name]]
    return changed + (["vtc_epochs"] if config.vtc_epochs else [])


def require_negatives(config: TrainConfig, processes: int) -> None:
    """Raise ValueError if a batch of all processes has a single pair, so that VTM has no wrong partner for it."""
    if task_of(config.model) is RETRIEVAL and config.loss.vtm_weight and own_batch(config, processes) * processes == 1:
        raise ValueError(
            "batch_size or global_batch gives batches of 1 pair, expected at least 2, because VTM compares each pair "
            "with wrong ones; or leave VTM out with loss.vtm_weight=0"
        )


def require_backend(graph: GraphConfig, device: torch.device) -> None:
    """Raise ValueError if the backend that the graph's kernels were asked to run on cannot run on this device."""
    if graph.kind != "graph" or graph.attention != "kernels":
        return
    asked = graph.backend != "auto"
    name = graph.backend if asked else dispatch.environment_backend()
    if reason := dispatch.why_not(name, device):
        source = "model.graph.backend" if asked else "STGT_BACKEND"
        raise ValueError(f"{source} is {name!r}, which cannot run: {reason}")


def require_same_run(config: TrainConfig) -> None:
    """Raise ValueError if the run in the folder was started with a configuration that gives another result."""
    path = config.out / "config.json"
    if not path.exists():
        if found := ckpt.checkpoints(config.out):
            raise ValueError(
                f"{path}: there is no such file, but there are checkpoints, so it was removed: put it back, or choose "
                f"another folder with --out; its contents are the value 'config' in {found[-1] / ckpt.STATE}"
            )
        return
    if differing := differences(to_dict(config), to_dict(read_recipe(path))):
        listed = "\n  ".join(differing)
        raise ValueError(
            f"{config.out} holds a run of another configuration:\n  {listed}\n  "
            "repeat the command with the values of that run to go on with it, or choose another folder with --out"
        )


def require_features(
    features: FeatureStore,
    items: PairDataset,
    model: VideoEncoder,
    *,
    contents: bool = False,
    accept_changed: bool = False,
) -> None:
    """Raise ValueError unless the cache holds the tokens that the frozen tower gives for these items.

    contents: whether the contents of the videos are compared with those that the cache was made of.
    accept_changed: whether changed videos and another decoder are a warning in place of an error.
    """
    vision = model.config.vision
    if vision.open_blocks != 0:
        raise ValueError(
            f"data.features is given, but vision.open_blocks={vision.open_blocks} trains the tower, expected 0"
        )
    features.require(
        tower=tower_hash(model.vision.state_dict(), vision),
        transform=describe(items.transform),
        frames=items.frames,
        sampling=items.sampling,
    )
    changes = features.changed_videos(items.root, contents=contents)
    if (here := items.decoder_version) != features.key.decoder:
        changes.insert(0, f"decoder: {here}, there {features.key.decoder}")
    require_same(f"{features.folder} was made of other data", changes, accept=accept_changed)
