"""Tensors of fewer rows than processes, or of rows that cannot be shared out equally, are trained, saved and loaded."""

import shutil

import pytest
import torch
from helpers import standin
from helpers.processes import in_processes
from helpers.runs import differing
from torch import nn

from stgt import checkpoint as ckpt
from stgt.checkpoint.shards import local_rows
from stgt.config import ModelConfig, OptimConfig
from stgt.distributed import start_world
from stgt.training.log import read_log
from stgt.training.trainer import Trainer

SHARES = [{1: 1, 2: 1, 3: 1, 4: 2, 5: 2}, {1: 0, 2: 1, 3: 1, 4: 2, 5: 2}, {1: 0, 2: 0, 3: 1, 4: 0, 5: 1}]
"""The rows that each of three processes holds, by the number of all rows"""


class Block(nn.Module):
    """A frozen layer beside a trained one."""

    def __init__(self, rows):
        super().__init__()
        self.trained, self.frozen = nn.Linear(5, rows), nn.Linear(rows, 5).requires_grad_(False)

    def forward(self, x):
        return x + self.frozen(torch.tanh(self.trained(x)))


class Uneven(nn.Module):
    def __init__(self):
        super().__init__()
        self.config = ModelConfig()
        self.vision = nn.Linear(4, 5)
        self.blocks = nn.ModuleList(map(Block, range(1, 6)))
        self.scale = nn.Parameter(torch.tensor(1.0))

    def forward(self, batch, loss):
        x = self.vision(batch["video"])
        for block in self.blocks:
            x = block(x)
        return {"loss": (x * self.scale - 1).square().mean()}


def trainer(out, epochs, sharded):
    torch.manual_seed(0)
    config = standin.config(out, epochs=epochs, global_batch=6, save_every=4, log_every=1, sharded=sharded)
    config.optim = OptimConfig(lr=1e-3, min_lr=1e-4, warmup_steps=3)
    return Trainer(config, Uneven(), standin.Items(), standin.collate, start_world("cpu"))


def train_in_three(rank, folder):
    trainer(folder / "whole", 1, sharded=False).fit()
    sharded = trainer(folder / "sharded", 1, sharded=True)
    assert all(len(local_rows(p)) == SHARES[rank][len(p)] for p in sharded.model.parameters() if p.ndim)
    sharded.fit()


def go_on_in_two(rank, folder):
    loaded = trainer(folder / "three", 1, sharded=True)
    loaded.fit()  # the checkpoint is that of the last step
    loaded.run = folder / "two"
    loaded._save()
    for name in ("whole", "sharded"):
        trainer(folder / name, 2, sharded=name == "sharded").fit()


def test_three_processes_save_and_two_load(tmp_path):
    """The losses agree to 1e-6, since the sum of three gradients depends on their order.

    The roundings of a step change the losses after it by up to 16·2⁻²⁴·lr·|g|₁, as in test_sharding.py. Here lr is
    1e-3, and |g|₁ is at most 8·√116, since 116 values are trained. Seven steps make 6e-7, of losses above 1.
    """
    in_processes(3, train_in_three, tmp_path)
    shutil.copytree(tmp_path / "sharded", tmp_path / "three")
    in_processes(2, go_on_in_two, tmp_path)
    assert differing(tmp_path / "three", tmp_path / "two", ("model", "optimizer")) == []
    whole, sharded = (read_log(tmp_path / name) for name in ("whole", "sharded"))
    losses, others = ([record["loss"] for record in records] for records in (whole, sharded))
    assert losses == pytest.approx(others, rel=1e-6) and losses[0] == others[0] and len(losses) == 8
    assert min(losses) > 1 and max(record["grad_norm"] for record in whole) < 8
    assert len(list((ckpt.latest_checkpoint(tmp_path / "three") / "optimizer").iterdir())) == 3
    assert sum(p.numel() for p in Uneven().parameters() if p.requires_grad) == 116
