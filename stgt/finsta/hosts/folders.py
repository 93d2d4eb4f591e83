"""Hosts in folders: our own runs, and models of transformers. Each can be opened, and saved after post-training."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Literal, Protocol, get_args

import torch
from torch import Tensor

import stgt._torchvision  # noqa: F401  (before transformers)
from stgt import checkpoint as ckpt
from stgt.config import DataConfig, TrainConfig, to_dict
from stgt.data.transforms import eval_transform
from stgt.distributed import choose_device
from stgt.files import write_json
from stgt.finsta.hosts.blip2 import BLIP2Host
from stgt.finsta.hosts.clip import CLIPHost
from stgt.finsta.hosts.host import Host
from stgt.finsta.hosts.kinds import HostKind
from stgt.finsta.hosts.stgt import STGTHost
from stgt.finsta.hosts.xclip import XCLIPHost
from stgt.runs import find_model, open_retrieval, save_tokenizer
from stgt.weights.whole import load_whole

from transformers import (  # isort: skip
    AutoConfig,
    AutoImageProcessor,
    AutoTokenizer,
    Blip2ForImageTextRetrieval,
    CLIPModel,
    XCLIPModel,
)

_CLASSES = {
    "clip": (CLIPModel, CLIPHost, "clip"),
    "xclip": (XCLIPModel, XCLIPHost, "xclip"),
    "blip2": (Blip2ForImageTextRetrieval, BLIP2Host, "blip-2"),
}
"""{kind: the class of the model, that of the host, the model's type in its config.json}"""


class HostFolder(Protocol):
    """A host with the way in which it reads clips, and in which it is saved."""

    host: Host
    data: DataConfig
    """The frames that the host takes, and the way in which they are read"""
    transform: Callable[[Tensor], Tensor]
    """From uint8 (T, 3, H, W) to the host's own float32 (T, 3, S, S), without cropping"""
    precision: Literal["fp32", "bf16", "fp16"]
    """The dtype of the computation, by autocast"""
    tower: dict | None
    """The reference to a frozen tower that checkpoints do not store"""

    def settings(self, out: Path) -> dict:
        """The JSON values that a checkpoint of post-training in the folder `out` records about the model."""
        ...

    def begin(self, out: Path) -> None:
        """Write what checkpoints in `out` need so that the model can be opened from them."""
        ...

    def finish(self, out: Path) -> None:
        """Write what is left to write when post-training has ended."""
        ...


class RunFolder:
    """The run of a retrieval model of ours. After post-training, the new folder is a run as well."""

    def __init__(self, name: str | Path, device: str, tokenizer: str | None) -> None:
        self.place = find_model(name).folder
        self.run = open_retrieval(self.place, device, tokenizer)
        config = self.run.config
        self.host = STGTHost(self.run.model, self.run.tokenizer, config.loss)
        self.data, self.precision = config.data, config.precision
        self.transform = eval_transform(config.model.vision.sizes.image_size)
        self.tower = ckpt.tower_reference(self.run.model)

    def settings(self, out: Path) -> dict:
        return to_dict(self._config(out))

    def begin(self, out: Path) -> None:
        save_tokenizer(self.run.tokenizer, out / "tokenizer")
        write_json(out / "config.json", self.settings(out))

    def finish(self, out: Path) -> None:
        """Nothing is left to write: a run is opened from its checkpoints."""

    def _config(self, out: Path) -> TrainConfig:
        return replace(self.run.config, out=out, init=self.place)


class TransformersFolder:
    """A model of transformers with its tokenizer and image processor, as `save_pretrained` writes them."""

    def __init__(self, name: str | Path, kind: HostKind, device: str) -> None:
        """Open a folder or a model on the hub. Raises ValueError for a model of another type, or without parameters."""
        model_class, host_class, model_type = _CLASSES[kind]
        if (found := AutoConfig.from_pretrained(name).model_type) != model_type:
            raise ValueError(f"{name} holds a model of type {found!r}, expected {model_type!r} for --host {kind}")
        self.tokenizer, self.images = AutoTokenizer.from_pretrained(name), AutoImageProcessor.from_pretrained(name)
        model = load_whole(model_class, name, dtype=torch.float32).to(choose_device(device)).eval()
        self.host = host_class(model, self.tokenizer)
        vision = model.config.vision_config
        self.data = DataConfig(frames=vision.num_frames if kind == "xclip" else DataConfig.frames)
        self.transform = eval_transform(vision.image_size, self.images.image_mean, self.images.image_std)
        self.precision, self.tower = "fp32", None

    def settings(self, out: Path) -> dict:
        return {"model": json.loads(self.host.model.config.to_json_string(use_diff=False))}

    def begin(self, out: Path) -> None:
        """Nothing is written: the folder holds no model before the post-training has ended."""

    def finish(self, out: Path) -> None:
        for part in (self.host.model, self.tokenizer, self.images):
            part.save_pretrained(out)


def open_host(
    name: str | Path, kind: HostKind = "stgt", *, device: str = "auto", tokenizer: str | None = None
) -> RunFolder | TransformersFolder:
    """The host in a folder, in evaluation mode.

    name: for "stgt" what `stgt evaluate --model` takes; for the others a folder that `save_pretrained` wrote, or a name
    on the Hugging Face hub. tokenizer: for "stgt" alone, as in `stgt evaluate`.
    Raises ValueError for another kind of model, or one whose files lack parameters, and OSError or CheckpointError if
    the folder holds none.
    """
    if kind not in get_args(HostKind):
        raise ValueError(f"kind is {kind!r}, expected one of {', '.join(map(repr, get_args(HostKind)))}")
    if kind == "stgt":
        return RunFolder(name, device, tokenizer)
    if tokenizer is not None:
        raise ValueError(f"tokenizer is {tokenizer!r}, expected none: the folder of a {kind!r} host has its own")
    return TransformersFolder(name, kind, device)
