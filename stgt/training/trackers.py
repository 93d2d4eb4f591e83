"""Sends the curves of a run to TensorBoard, or to the services of Weights & Biases and Trackio."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from stgt.config import TrainConfig, to_dict
from stgt.training.records import Scalars

logger = logging.getLogger(__name__)


class Tracker(Protocol):
    """Takes the values of a step, and shows each of them as a curve over the steps."""

    def write(self, values: Mapping[str, float], step: int) -> None:
        """Add a point to the curve of each name."""
        ...

    def close(self) -> None:
        """Send what is left. Nothing is written afterwards."""
        ...


class Service:
    """Weights & Biases or Trackio, whose functions are alike. If the service fails, the run goes on without it.

    After an interruption, the service goes on with the same curves. Both services read their keys and addresses from
    their own environment variables.
    """

    def __init__(self, name: str, config: TrainConfig) -> None:
        self._module = require_service(name)
        self._warned = False
        # The service knows the run by the name of its folder, so that a resumed run continues the same curves.
        settings = dict(project="stgt", name=config.out.name, config=to_dict(config), resume="allow")
        if name == "wandb":
            settings |= dict(id=config.out.name, dir=str(config.out))
        self._call("init", **settings)

    def write(self, values: Mapping[str, float], step: int) -> None:
        self._call("log", dict(values), step=step)

    def close(self) -> None:
        self._call("finish")

    def _call(self, function: str, *arguments: object, **settings: object) -> None:
        try:
            getattr(self._module, function)(*arguments, **settings)
        except Exception as error:  # networks and foreign packages raise errors of many kinds
            if not self._warned:
                logger.warning("%s.%s failed (%s); the run goes on without it", self._module.__name__, function, error)
            self._warned = True


def require_service(name: str) -> object:
    """The package of a service. Raises ValueError if it is not installed."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        raise ValueError(f"log_to is {name!r}, but the package is not installed; run: pip install {name}") from None


def make_tracker(config: TrainConfig, step: int) -> Tracker:
    """The tracker that `config.log_to` names. step: the first step that will be written."""
    if config.log_to == "tensorboard":
        return Scalars(Path(config.out) / "tensorboard", step)
    return Service(config.log_to, config)
