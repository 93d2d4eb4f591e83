"""A run with a tiny model and tiny data that are as random as the real ones. Tests that kill it run main() in a
fork, or this file as a program.

usage: standin.py OUT [KEY=VALUE ...] [kill=step:7 | kill=write:9 | kill=worker:6 | full=BYTES]
"""

import os
import random
import resource
import signal
import sys
from pathlib import Path

import numpy as np
import torch
from torch import nn

from stgt import checkpoint as ckpt
from stgt import files
from stgt.checkpoint import write
from stgt.config import DataConfig, ModelConfig, OptimConfig, TrainConfig
from stgt.distributed import World, start_world
from stgt.training.log import RunLog
from stgt.training.trainer import Trainer


class StandIn(nn.Module):
    """A model with dropout, an embedding, tied and frozen weights, and a random draw, like the real model."""

    def __init__(self, width=8):
        super().__init__()
        self.config = ModelConfig()
        self.vision = nn.Linear(4, width).requires_grad_(False)
        self.words = nn.Embedding(11, width)
        self.head = nn.Linear(width, 11, bias=False)
        self.head.weight = self.words.weight
        self.body = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Dropout(0.2), nn.LayerNorm(width))
        self.temp = nn.Parameter(torch.tensor(0.07))
        self.register_buffer("pos", torch.randn(width))

    def forward(self, batch, loss):
        x = self.body(self.vision(batch["video"]) + self.words(batch["word"]) + self.pos)
        x = x[torch.multinomial(torch.ones(len(x)), len(x), replacement=True)]
        task = nn.functional.cross_entropy(self.head(x) / self.temp.clamp(min=0.01), batch["word"])
        return {
            "loss": task * (2 if loss.alignment == "csal" else 1),
            "vtc": task,
            "edges_per_token": x.detach().mean(),
        }


class Items:
    def __init__(self, broken=()):
        self.broken = broken

    def __len__(self):
        return 26

    def __getitem__(self, i):
        noise = torch.rand(4) + random.random() + np.random.rand()
        video = torch.full((4,), float("nan")) if i in self.broken else i / 26 + 0.1 * noise
        return {"video": video, "word": torch.tensor(i % 11), "path": f"clip{i}.mp4", "replaced": int(i == 3)}


def collate(items):
    tensors = {key: torch.stack([item[key] for item in items]) for key in ("video", "word")}
    return tensors | {"path": [item["path"] for item in items], "replaced": sum(item["replaced"] for item in items)}


def config(out, *, workers=0, accumulate=1, **fields):
    defaults = {"epochs": 4, "batch_size": 5, "save_every": 4, "log_every": 3, "precision": "fp32", "device": "cpu"}
    return TrainConfig(
        out=Path(out),
        data=DataConfig(workers=workers),
        optim=OptimConfig(lr=1e-2, min_lr=1e-4, warmup_steps=3, accumulate=accumulate),
        **(defaults | fields),
    )


def trainer(config, world=None, items=None):
    torch.manual_seed(0)
    return Trainer(config, StandIn(), items or Items(), collate, world or World(0, 1, torch.device("cpu")))


def weights(run):
    return ckpt.read_tensors(ckpt.latest_checkpoint(run), "model")


def kill_in(place):
    """Kill this process by SIGKILL in the step after n steps, or in the call after n calls that write a checkpoint.

    With "worker", only the second process of a run is killed, in the step after n steps since its start.
    """
    kind, count = place.split(":")
    if kind == "worker" and os.environ["RANK"] != "1":
        return
    calls = {
        "step": [(RunLog, "add")],
        "write": [(write, "save_tensors"), (files, "_sync"), (os, "rename")],
        "worker": [(Trainer, "_train_step")],
    }[kind]
    left = [int(count)]

    def deadly(function):
        def wrapped(*args, **kwargs):
            left[0] -= 1
            if left[0] < 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*args, **kwargs)

        return wrapped

    for owner, name in calls:
        setattr(owner, name, deadly(getattr(owner, name)))


def main(out, *settings):
    given = dict(setting.split("=") for setting in settings)
    if "kill" in given:
        kill_in(given.pop("kill"))
    largest_file = int(given.pop("full", 0))
    fields = {key: value if key == "precision" else int(value) for key, value in given.items()}
    run = trainer(config(out, **fields), start_world("cpu"))
    if largest_file:
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))
    run.fit()
    run.world.close()
    threads = {name.read_text().strip() for name in Path("/proc/self/task").glob("*/comm")}
    assert not threads & {"pt_gloo_runloop", "gloo_tcp_loop"}, threads  # they may abort the process when it ends


if __name__ == "__main__":
    main(*sys.argv[1:])
