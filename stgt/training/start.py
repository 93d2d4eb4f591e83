"""Loads the weights and the tokenizer that a new run begins with, from another run, a folder, or released weights."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from stgt import checkpoint as ckpt
from stgt.config import ModelConfig, TrainConfig, differences, to_dict
from stgt.data.prompts import LanguageTokenizer
from stgt.data.text import Tokenizer
from stgt.models.stgt import STGT
from stgt.models.vision import VisionTower
from stgt.models.vqa import VideoQA
from stgt.runs import load_run, saved_config, stored_tokenizer
from stgt.tasks import RETRIEVAL, Task, task_of
from stgt.weights.files import read_weights
from stgt.weights.load import TOWER, load_released, load_tower
from stgt.weights.pretrained import CONFIG, is_pretrained, read_config

logger = logging.getLogger(__name__)


def start_from(model: STGT | VideoQA, init: Path) -> None:
    """Load the weights of a run's chosen checkpoint, a folder of `save_pretrained`, or a released checkpoint.

    A question answering model can start from the weights of a retrieval model.
    Raises ValueError or CheckpointError if they do not fit the model, and ValueError if checkpoints would name a
    pretrained tower in place of the tower that was loaded.
    """
    named = ckpt.tower_reference(model)
    if isinstance(model, VideoQA):
        _answer_from(model, init)
    elif _is_run(init):
        ckpt.load_model(model, ckpt.chosen_checkpoint(init), convert=True)
    else:
        load_released(model, init)
    _tell_differences(model.config, init)
    if ckpt.tower_reference(model) != named:
        raise ValueError(
            f"{init}: its vision tower is not model.vision.pretrained={named['pretrained']!r}, which checkpoints of "
            "this run would name in place of the weights: give --model.vision.pretrained None as well, and they hold "
            "the tower"
        )


def start_tower(tower: VisionTower, init: Path) -> None:
    """Load the weights into a tower that `start_from` loads into the tower of a model.

    Raises ValueError or CheckpointError if they do not fit the tower.
    """
    if _is_run(init):
        ckpt.load_tower(tower, ckpt.chosen_checkpoint(init))
    elif any(name.startswith(TOWER) for name in read_weights([init]).sources):
        load_tower(tower.tower, init)
    else:
        logger.warning("%s has no vision tower: the tower keeps its own weights", init)


def starting_tokenizer(config: TrainConfig) -> Tokenizer | LanguageTokenizer:
    """The tokenizer of a new run. A run that starts from weights for words has the tokenizer of these weights.

    Raises ValueError if the configuration names another tokenizer, or if the tokenizer of the weights is not known and
    a new one would be trained.
    """
    task, data = task_of(config.model), config.data
    if config.init is not None and not config.init.exists():
        raise ValueError(f"init is {config.init}: no such file or folder")
    named = task.tokenizer_name(data, config.model)
    theirs = None if config.init is None else _tokenizer_of(task, config.init)
    if theirs is None:
        if config.init is not None and named is None and task is RETRIEVAL:
            raise ValueError(
                f"{config.init} has no tokenizer, and data.tokenizer='train' would give its words other numbers: "
                "expected --data.tokenizer with the tokenizer that these weights were trained with, such as "
                "bert-base-uncased for released weights"
            )
        return task.make_tokenizer(data, config.model)
    if named is None:
        logger.info("the tokenizer is that of %s, and no new one is trained", config.init)
        return theirs
    ours = task.make_tokenizer(data, config.model)
    if ours.vocabulary != theirs.vocabulary:
        same = "--data.tokenizer train, which takes that tokenizer" if task is RETRIEVAL else "the same language model"
        raise ValueError(
            f"{named}, whose vocabulary differs from that of the tokenizer of {config.init}, so words would get the "
            f"weights of other words: expected {same}, or other weights for --init"
        )
    return ours


def _tokenizer_of(task: Task, init: Path) -> Tokenizer | LanguageTokenizer | None:
    """The tokenizer that belongs to weights, or None if they come without one or are for another task."""
    if _is_run(init):
        if (theirs := task_of(saved_config(ckpt.chosen_checkpoint(init)).model)) is not task:
            if task is RETRIEVAL:
                raise ValueError(
                    f"init is {init}, {theirs.described.partition(',')[0]}, whose weights have no part that reads "
                    "captions: expected weights of a retrieval model"
                )
            return None
        return task.load_tokenizer(init / "tokenizer")
    return stored_tokenizer(init) if task is RETRIEVAL and is_pretrained(init) else None


def _is_run(init: Path) -> bool:
    return init.is_dir() and not is_pretrained(init)


def _tell_differences(ours: ModelConfig, init: Path) -> None:
    """Log the settings of the model that had other values in the training of the weights, as far as they are known."""
    if _is_run(init):
        theirs = saved_config(ckpt.chosen_checkpoint(init)).model
    elif is_pretrained(init):
        theirs = read_config(init / CONFIG)
    else:
        return
    if theirs.language is None:
        theirs = replace(theirs, language=ours.language)
    if ours.language is not None:  # Its Q-Former reads no text.
        words = {name: getattr(ours.qformer, name) for name in ("vocab_size", "bos_token_id", "pad_token_id")}
        theirs = replace(theirs, qformer=replace(theirs.qformer, **words))
    for line in differences(to_dict(ours), to_dict(theirs), "model."):
        logger.info("starting from %s, which was trained with another value of %s", init, line)


def _answer_from(model: VideoQA, init: Path) -> None:
    """Copy all weights of a retrieval or question answering model.

    Only the language model's part may be new, and after a question answering model only LoRA's matrices.
    Raises ValueError if checkpoints would name a language model in place of the frozen weights that were copied.
    """
    if _is_run(init):
        source = load_run(init, "cpu").model
    else:
        retrieval = replace(model.config, language=None)
        if is_pretrained(init):  # its vocabulary may differ, which does not matter: questions do not use its words
            retrieval = replace(retrieval, qformer=read_config(init / CONFIG).qformer)
        source = RETRIEVAL.make_model(retrieval)
        load_released(source, init)
    ours, theirs = (_without_adapters(each.state_dict()) for each in (model, source))
    answers = isinstance(source, VideoQA)
    new = "lora_" if answers else "language"
    problems = [f"{name} is missing" for name in ours.keys() - theirs.keys() if new not in name]
    if answers:
        problems += [f"{name} is unknown to this model" for name in theirs.keys() - ours.keys()]
    problems += [
        f"{name} has shape {tuple(theirs[name].shape)}, here {tuple(ours[name].shape)}"
        for name in ours.keys() & theirs.keys()
        if ours[name].shape != theirs[name].shape
    ]
    if problems:
        settings = differences(to_dict(model.config), to_dict(source.config), "model.")
        listed = "\n  ".join([*settings, *sorted(problems)[:12]])
        raise ValueError(f"{init}: its model does not fit the model of this run:\n  {listed}")
    named = ckpt.language_reference(model) if answers else None
    for name in ours.keys() & theirs.keys():
        ours[name].copy_(theirs[name])
    if answers and ckpt.language_reference(model) != named:
        raise ValueError(
            f"{init}: its language model has other weights than model.language.model={named['model']!r}, which "
            "checkpoints of this run would name in place of the weights: give --model.language.tune all, and they hold "
            "the language model, or begin with weights that were trained on this language model in this dtype"
        )


def _without_adapters(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors under the names of a model without LoRA, which puts the weights of its maps under "base_layer"."""
    return {name.replace(".base_layer.", "."): tensor for name, tensor in tensors.items()}
