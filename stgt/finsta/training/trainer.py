"""The loop of post-training. It goes on from its last checkpoint, and ends with the same bits."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from stgt import checkpoint as ckpt
from stgt.config import OptimConfig
from stgt.data.loader import LoaderError, read_batches
from stgt.data.samples import collate
from stgt.distributed import World
from stgt.finsta.hosts.folders import HostFolder
from stgt.finsta.training.config import PostTraining
from stgt.finsta.training.data import Clips, GraphDataset
from stgt.finsta.training.objective import Objective
from stgt.models.precision import DTYPES
from stgt.ownership import clear_up
from stgt.randomness import SeededItems, random_state, restore_random_state, seed_everything
from stgt.signals import NOTICE, StoppedError, StopSignals
from stgt.training.determinism import deterministic, warn_of_threads
from stgt.training.finite import FiniteValues
from stgt.training.log import RunLog
from stgt.training.optim import decay_groups, learning_rate
from stgt.training.records import Scalars
from stgt.training.sampler import BatchSampler

logger = logging.getLogger(__name__)

OBJECTIVE = "objective"
"""The group of a checkpoint that holds the objective's tensors"""
LOWEST = 0.01
"""The learning rate of a stage's last step, as a part of the largest one"""


class PostTrainer:
    """Trains an objective alone, and then together with its host, in the folder `config.out`.

    A checkpoint of that folder is one of the host, and also holds what it takes to go on.
    """

    def __init__(
        self, config: PostTraining, folder: HostFolder, objective: Objective, items: GraphDataset, data: dict
    ) -> None:
        """data: the summary of the data's fingerprint, which is kept in each checkpoint."""
        self.config, self.folder, self.host, self.data = config, folder, folder.host, data
        self.model, self.device = self.host.model, next(self.host.model.parameters()).device
        self.objective = objective.to(self.device)
        self.trained = nn.ModuleDict({"objective": self.objective, "host": self.model})
        groups = [
            group | {"largest": rate}
            for rate, module in ((config.lr, self.objective), (config.host_lr, self.model))
            for group in decay_groups(module.parameters(), config.weight_decay)
        ]
        self.optimizer = torch.optim.AdamW(groups, lr=config.lr, betas=OptimConfig.betas, fused=True)
        self.sampler = BatchSampler(len(items), config.batch_size, seed=config.seed, images=items.images)
        self.items = SeededItems(items, config.seed)
        self.aligning = config.align_epochs * self.sampler.per_epoch if objective.aligns else 0
        self.total = self.aligning + config.epochs * self.sampler.per_epoch
        self.step = self.replaced = 0
        self.kept: Path | None = None  # the newest checkpoint
        again = f"{config.run} with another --out starts another run"
        self.finite = FiniteValues(World(0, 1, self.device), config.out, again)

    def fit(self) -> None:
        """Run to the end.

        Raises StoppedError after a signal, NonFiniteError if the loss is NaN or infinite, and LoaderError if the
        processes that read clips are killed again and again.
        """
        with deterministic(True), StopSignals(notice=NOTICE) as stop:
            self._fit(stop)
        self.model.eval()

    def _fit(self, stop: StopSignals) -> None:
        out = self.config.out
        seed_everything(self.config.seed)
        if (resumed := ckpt.newest_checkpoint(out)) is not None:
            self._load(resumed)
            logger.info("going on from %s, step %d of %d", resumed, self.step, self.total)
            # The next checkpoint would do both, but a run that is complete writes none.
            clear_up(resumed.parent)
            ckpt.rotate(resumed, self.config.keep)
        ckpt.require_free_names(out, self.step, self.total)
        if resumed is None:
            self._save()
        log = RunLog(out, self.step, self.total, Scalars(out / "tensorboard", self.step + 1))
        batches = self._batches()
        try:
            self._stop_if_asked(stop)
            while self.step < self.total:
                self._advance(batches, log)
                self._stop_if_asked(stop)
        finally:
            batches.close()
            log.close()
            if self.replaced:
                logger.warning("%d clips replaced others whose videos could not be read", self.replaced)

    def _advance(self, batches: Iterator[dict], log: RunLog) -> None:
        """Make one step, and after it a record and a checkpoint if they are due."""
        values, clips = self._whole_step(batches)
        self.step += 1
        ended = self.step == self.total
        log.add(values, clips)
        if self.step % self.config.log_every == 0 or ended:
            self.finite.require()
            stage, rate = 1 if self.step <= self.aligning else 2, self.optimizer.param_groups[0]["lr"]
            log.record(self.step, self.device, stage=stage, lr=rate, replaced=self.replaced)
        if ended or self.step % self.config.save_every == 0:
            self._save()

    def _stop_if_asked(self, stop: StopSignals) -> None:
        if stop.received:
            self._save()
            where = f"stopped after step {self.step} of {self.total}"
            raise StoppedError(stop.received, f"{where}; the same command goes on from {self.config.out}")

    def _batches(self) -> Iterator[dict]:
        """The batches from the present step to the end. Both stages begin with the same ones."""
        numbers = (step - self._first(step) for step in range(self.step, self.total))
        return read_batches(
            self.items,
            map(self.sampler.batch, numbers),
            workers=self.config.workers,
            collate=collate,
            pin_memory=self.device.type == "cuda",
        )

    def _first(self, step: int) -> int:
        """The first step of the stage that a step belongs to."""
        return 0 if step < self.aligning else self.aligning

    def _whole_step(self, batches: Iterator[dict]) -> tuple[dict[str, Tensor], int]:
        """Make one step. If its clips cannot be read any more, write a checkpoint of the step before and raise."""
        random = random_state()
        try:
            return self._train_step(next(batches))
        except LoaderError as error:
            restore_random_state(random)
            self._save()
            before = f"step {self.step + 1} of {self.total} was not made"
            raise LoaderError(f"{error}; {before}, and the same command goes on from {self.config.out}") from error

    def _train_step(self, batch: dict) -> tuple[dict[str, Tensor], int]:
        tuning = self.step >= self.aligning
        self.model.train(tuning)
        self._set_rates()
        tensors = (batch[name].to(self.device, non_blocking=True) for name in ("video", "times", "video_index"))
        clips, paths = Clips(*tensors, batch["graphs"]), list(map(str, batch["path"]))
        losses, precision = self.objective.tune if tuning else self.objective.align, self.config.precision or "fp32"
        with torch.autocast(self.device.type, DTYPES[precision], precision != "fp32"):
            values = losses(self.host, clips)
        self.finite.note("loss", values["loss"], self.step + 1, paths)
        values["loss"].backward()
        for name, module in self.trained.items():  # one by one, so the objective's gradient does not shrink the host's
            if not (parameters := list(module.parameters())):
                continue
            norm = nn.utils.clip_grad_norm_(parameters, self.config.clip_norm or math.inf)
            self.finite.note(f"gradient norm of the {name}", norm, self.step + 1, paths)
            values[f"grad_norm_{name}"] = norm
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.replaced += batch["replaced"]
        return values, len(paths)

    def _set_rates(self) -> None:
        """Set the learning rates of this step. Each stage has a warm-up and a cosine of its own."""
        first = self._first(self.step)
        steps = (self.aligning if self.step < self.aligning else self.total) - first
        shape = OptimConfig(lr=1.0, min_lr=LOWEST, warmup_steps=round(self.config.warmup * steps))
        factor = learning_rate(self.step - first, steps, shape)
        for group in self.optimizer.param_groups:
            group["lr"] = factor * group["largest"]

    def _save(self) -> None:
        self.finite.require()
        ckpt.require_kept(self.kept, self.step)
        tower = self.folder.tower
        groups = {
            "model": ckpt.model_tensors(self.model, without_tower=tower is not None),
            OBJECTIVE: self.objective.state_dict(),
            "optimizer": ckpt.optimizer_tensors(self.trained, self.optimizer),
            "random": {f"0.{name}": tensor for name, tensor in random_state().items()},
        }
        state = {
            "step": self.step,
            "threads": torch.get_num_threads(),
            "replaced": self.replaced,
            "tower": tower,
            "data": self.data,
            "config": self.folder.settings(self.config.out),
        }
        self.kept = ckpt.write_checkpoint(self.config.out, self.step, groups, state, keep=self.config.keep)

    def _load(self, path: Path) -> None:
        state = ckpt.read_state(path)
        warn_of_threads(state["threads"])
        ckpt.load_model(self.model, path)
        self.objective.load_state_dict(ckpt.read_tensors(path, OBJECTIVE))
        ckpt.load_optimizer(self.trained, self.optimizer, path)
        ckpt.load_random(path, 0, 1)
        self.kept, self.step, self.replaced = path, state["step"], state["replaced"]
