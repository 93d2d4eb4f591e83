"""The weights that a new run begins with: those of another run, of a folder, or of a released checkpoint."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

from stgt import checkpoint as ckpt
from stgt.config import differences, to_dict
from stgt.models.stgt import STGT
from stgt.models.vqa import VideoQA
from stgt.runs import load_run
from stgt.tasks import RETRIEVAL
from stgt.weights.load import load_released
from stgt.weights.pretrained import CONFIG, is_pretrained, read_config

logger = logging.getLogger(__name__)


def start_from(model: STGT | VideoQA, init: Path) -> None:
    """Load a run's chosen weights, a folder of `save_pretrained`, or a released checkpoint.

    Question answering takes those of a retrieval model.
    """
    if isinstance(model, VideoQA):
        _answer_from(model, init)
        return
    if is_pretrained(init) or not init.is_dir():
        load_released(model, init)
        return
    checkpoint = ckpt.chosen_checkpoint(init)
    ckpt.load_model(model, checkpoint, convert=True)
    theirs = ckpt.read_state(checkpoint)["config"]["model"]
    for line in differences(to_dict(model.config), theirs, "model."):
        logger.info("starting from %s, whose weights were trained with another %s", checkpoint, line)


def _answer_from(model: VideoQA, init: Path) -> None:
    """Take all that a retrieval or question answering model has; only the language model's side may be new."""
    if init.is_dir() and not is_pretrained(init):
        source = load_run(init, "cpu").model
    else:
        retrieval = replace(model.config, language=None)
        if is_pretrained(init):  # whose words may be others: they stay behind
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
        raise ValueError(f"{init}: the model there does not fit:\n  {listed}")
    model.load_state_dict({name: theirs[name] for name in ours.keys() & theirs.keys()}, strict=False)
