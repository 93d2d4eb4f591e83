"""Loads the weights that a new run begins with, from another run, a folder, or a released checkpoint."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

from stgt import checkpoint as ckpt
from stgt.config import differences, to_dict
from stgt.models.stgt import STGT
from stgt.models.vqa import VideoQA
from stgt.runs import load_run, saved_config
from stgt.tasks import RETRIEVAL
from stgt.weights.load import load_released
from stgt.weights.pretrained import CONFIG, is_pretrained, read_config

logger = logging.getLogger(__name__)


def start_from(model: STGT | VideoQA, init: Path) -> None:
    """Load the weights of a run's chosen checkpoint, a folder of `save_pretrained`, or a released checkpoint.

    A question answering model can start from the weights of a retrieval model.
    """
    if isinstance(model, VideoQA):
        _answer_from(model, init)
        return
    if is_pretrained(init) or not init.is_dir():
        load_released(model, init)
        return
    checkpoint = ckpt.chosen_checkpoint(init)
    theirs = saved_config(checkpoint).model
    ckpt.load_model(model, checkpoint, convert=True)
    for line in differences(to_dict(model.config), to_dict(theirs), "model."):
        logger.info("starting from %s, which was trained with another value of %s", checkpoint, line)


def _answer_from(model: VideoQA, init: Path) -> None:
    """Copy all weights of a retrieval or question answering model. Only the language model's part may be new."""
    if init.is_dir() and not is_pretrained(init):
        source = load_run(init, "cpu").model
    else:
        retrieval = replace(model.config, language=None)
        if is_pretrained(init):  # its vocabulary may differ, which does not matter: questions do not use its words
            retrieval = replace(retrieval, qformer=read_config(init / CONFIG).qformer)
        source = RETRIEVAL.make_model(retrieval)
        load_released(source, init)
    ours, theirs = model.state_dict(), source.state_dict()
    problems = [f"{name} is missing" for name in ours.keys() - theirs.keys() if not name.startswith("language")]
    problems += [
        f"{name} has shape {tuple(theirs[name].shape)}, here {tuple(ours[name].shape)}"
        for name in ours.keys() & theirs.keys()
        if ours[name].shape != theirs[name].shape
    ]
    if problems:
        settings = differences(to_dict(model.config), to_dict(source.config), "model.")
        listed = "\n  ".join([*settings, *sorted(problems)[:12]])
        raise ValueError(f"{init}: its model does not fit the model of this run:\n  {listed}")
    model.load_state_dict({name: theirs[name] for name in ours.keys() & theirs.keys()}, strict=False)
