"""The training loop."""

from __future__ import annotations

import dataclasses
import logging
import math
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch._dynamo.exc import TorchDynamoException
from torch.nn.parallel import DistributedDataParallel

from stgt import checkpoint as ckpt
from stgt.config import TrainConfig, to_dict
from stgt.data.errors import StoreError, VideoError
from stgt.data.loader import LoaderError, read_batches
from stgt.distributed import World, data_parallel
from stgt.integrity import NonFiniteError
from stgt.memory import keep_freed_memory
from stgt.models.precision import DTYPES
from stgt.ownership import clear_up
from stgt.randomness import Items, SeededItems, random_state, restore_random_state, seed_everything
from stgt.signals import NOTICE, Interrupted, StoppedError, StopSignals
from stgt.training.determinism import deterministic, warn_of_threads
from stgt.training.finite import FiniteValues
from stgt.training.log import RunLog
from stgt.training.optim import learning_rate, make_optimizer, set_learning_rate
from stgt.training.sampler import BatchSampler
from stgt.training.sharding import ShardedModel
from stgt.training.trackers import make_tracker

if TYPE_CHECKING:
    from stgt.evaluation.validation import Validation

logger = logging.getLogger(__name__)

SMALLEST_SCALE = 2.0**-24
"""The smallest factor of the loss in fp16. It is halved at each step with infinite gradients. Gradients that are too
large for fp16 even with this factor would be above 10¹², so they are NaN"""


class Trainer:
    """Trains a model on pairs, from the last checkpoint of its run folder if there is one.

    `model(batch, loss_config)` returns a dict of scalars, one of which is "loss". `items[i]` is a dict of tensors and
    the "path" of its video, and `collate` makes a batch from a list of such items.
    The result of a step depends on the weights, the optimizer's state, the random generators and the step's number.
    A checkpoint holds all of them, so a run that was killed ends with the same bits as a run without the interruption.
    `data` is the summary of the data's fingerprint, which is kept in each checkpoint.
    `validation` is called after each epoch in every process. Its figures only decide which checkpoint is kept as the
    best one.
    Raises ValueError if the data set has fewer pairs than a batch, or the whole run fewer batches than one step.
    """

    def __init__(
        self,
        config: TrainConfig,
        model: nn.Module,
        items: Items,
        collate: Callable[[list], dict],
        world: World,
        validation: Validation | None = None,
        data: dict | None = None,
    ) -> None:
        self.config, self.world, self.run = config, world, config.out
        self.model = model
        # The hashes of frozen parts are computed before their weights are shared out.
        self.tower, self.language = ckpt.tower_reference(model), ckpt.language_reference(model)
        cached = config.data.features is not None
        self.sharded: ShardedModel | None = None
        if config.sharded and world.size > 1:
            self.sharded = ShardedModel(model, world, outside=[*model.vision.parameters()] if cached else [])
        else:
            model.to(world.device)
        if cached:
            # Training does not run the tower. It stays in the checkpoints, but it is not moved to the device.
            outside = [f"{ckpt.TOWER}{name}" for name in model.vision.cpu().state_dict()]
            DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(model, outside)
        self.optimizer = make_optimizer(model.parameters(), config.optim)
        self.scaler = torch.amp.GradScaler(world.device.type, enabled=config.precision == "fp16")
        self.sampler = BatchSampler(
            len(items),
            own_batch(config, world.size),
            seed=config.seed,
            rank=world.rank,
            world=world.size,
            images=getattr(items, "images", None),
        )
        self.items, self.collate = SeededItems(items, config.seed), collate
        self.total = config.epochs * self.sampler.per_epoch // config.optim.accumulate
        if self.total == 0:
            raise ValueError(f"optim.accumulate is {config.optim.accumulate}, but the whole run has fewer batches")
        self.step = 0
        self.kept: Path | None = None  # the newest checkpoint
        self.replaced = 0
        self.finite = FiniteValues(world, self.run, f"--init {self.run} starts another run from its weights")
        self.validation, self.best, self.data = validation, None, data
        self.unmeasured: int | None = None  # the epoch whose validation a signal cut short
        self.parallel = self.sharded or (torch.compile(model) if config.compile else model)

    def fit(self) -> None:
        """Run to the end.

        Raises StoppedError after a signal, NonFiniteError if the loss is NaN or infinite, and LoaderError if the
        processes that read clips are killed again and again.
        """
        if self.world.device.type == "cpu":
            keep_freed_memory()
        with deterministic(self.config.deterministic), StopSignals(notice=NOTICE if self.world.is_main else "") as stop:
            self._fit(stop)

    def _fit(self, stop: StopSignals) -> None:
        seed_everything(self.config.seed, self.world.rank)
        resumed = ckpt.newest_checkpoint(self.run)
        if resumed is not None:
            with self.world.agreed(ckpt.CheckpointError):
                self._load(resumed)
            logger.info("going on from %s, step %d of %d", resumed, self.step, self.total)
            if self.world.is_main:  # the next checkpoint would do both, but a run that is complete writes none
                clear_up(resumed.parent)
                ckpt.rotate(resumed, self.config.keep)
        ckpt.require_free_names(self.run, self.step, self.total)
        if resumed is None:
            self._save()
        log = self._open_log() if self.world.is_main else None
        batches = self._batches()
        alone = self.parallel
        if self.world.size > 1 and self.sharded is None:
            self.parallel = data_parallel(alone, self.config.deterministic)
        try:
            if self.unmeasured is not None:
                self._measure_late(resumed, log, stop)
            self._stop_if_asked(stop)
            while self.step < self.total:
                self._advance(batches, log, stop)
                self._stop_if_asked(stop)
        finally:
            # The DDP wrapper must not outlive the process group. If it held the last reference to the group, its
            # destructor would hold the interpreter's lock and wait for gloo's thread, which may need this lock to free
            # a tensor.
            self.parallel = alone
            batches.close()
            if log:
                log.close()
            if self.replaced:
                logger.warning("%d pairs replaced others whose videos could not be read", self.replaced)

    def _open_log(self) -> RunLog:
        tracker, unmeasured = make_tracker(self.config, self.step + 1), self.unmeasured is not None
        return RunLog(self.run, self.step, self.total, tracker, unmeasured=unmeasured)

    def _advance(self, batches: Iterator[dict], log: RunLog | None, stop: StopSignals) -> None:
        """Make one step, and after it a record, a validation and a checkpoint if they are due."""
        epoch, (values, clips) = self._epoch, self._whole_step(batches, stop)
        values = self.world.mean(values)
        self.step += 1
        ended = self.step == self.total
        if log:
            log.add(values, clips * self.world.size)
        if self.step % self.config.log_every == 0 or ended:
            self.finite.require()
            self._require_scale()
            replaced = self.world.sum(self.replaced)
            if log:
                rate = self.optimizer.param_groups[0]["lr"]
                log.record(self.step, self.world.device, epoch=epoch, lr=rate, replaced=replaced)
        better = self.validation is not None and (self._epoch > epoch or ended) and self._validate(epoch, log, stop)
        if better or ended or self.step % self.config.save_every == 0:
            self._save()

    def _require_scale(self) -> None:
        """Raise NonFiniteError if the gradients in fp16 are not finite with any factor of the loss."""
        if self.scaler.is_enabled() and self.world.any(self.scaler.get_scale() < SMALLEST_SCALE):
            raise NonFiniteError(
                f"the gradients in fp16 are not finite at step {self.step}, although the loss has the factor "
                f"{self.scaler.get_scale():.3g}, so they are NaN, and no step changes a weight; "
                f"--init {self.run} starts another run from the weights, for which --precision bf16 may help"
            )

    def _stop_if_asked(self, stop: StopSignals) -> None:
        if signum := self.world.max(stop.received):  # all processes stop after the same step
            self._save()
            where = f"stopped after step {self.step} of {self.total}"
            raise StoppedError(signum, f"{where}; the same command goes on from {self.run}")

    def _validate(self, epoch: int, log: RunLog | None, stop: StopSignals) -> bool:
        """Measure the model, and return whether it is the best so far.

        A signal cuts the measurement short, and a video that cannot be read ends the run. The measurement is then
        repeated when the run goes on.
        """
        self.finite.require()
        start = time.perf_counter()
        try:
            autocast = self.config.precision != "fp32"
            with (
                self.sharded.gathered() if self.sharded else nullcontext(),
                torch.autocast(self.world.device.type, DTYPES[self.config.precision], autocast),
            ):
                figures = self.validation(self.model, stop)
        except Interrupted:
            figures = None
        except VideoError as error:
            self.unmeasured = epoch
            if self.world.size == 1:  # other processes would wait inside the validation, and cannot write a checkpoint
                self._save()
            if isinstance(error, StoreError):
                raise
            raise VideoError(
                f"{error}; validation replaces no video: list it in --data.bad-list, and go on with "
                "--accept-changed-data"
            ) from error
        if self.world.any(figures is None):
            self.unmeasured = epoch
            return False
        self.unmeasured = None
        if log:
            log.validated(self.step, figures, time.perf_counter() - start)
        value = figures[self.validation.choose_by]
        better = self.world.any(self.best is None or value > self.best["value"])
        if better:
            self.best = {"step": self.step, "epoch": epoch, "chosen_by": self.validation.choose_by, "value": value}
        return better

    def _measure_late(self, checkpoint: Path, log: RunLog | None, stop: StopSignals) -> None:
        """Repeat the validation that a signal cut short, and write its result into the checkpoint of that time."""
        self._validate(self.unmeasured, log, stop)
        if self.world.is_main:
            ckpt.update_state(checkpoint, best=self.best, unmeasured=self.unmeasured)
        self.world.barrier()

    @property
    def _epoch(self) -> int:
        return self.step * self.config.optim.accumulate // self.sampler.per_epoch

    def _batches(self) -> Iterator[dict]:
        """The batches from the present step to the end."""
        accumulate = self.config.optim.accumulate
        return read_batches(
            self.items,
            self.sampler.batches(self.step * accumulate, self.total * accumulate),
            workers=self.config.data.workers,
            collate=self.collate,
            pin_memory=self.world.device.type == "cuda",
        )

    def _whole_step(self, batches: Iterator[dict], stop: StopSignals) -> tuple[dict[str, torch.Tensor], int]:
        """Make one step. If that cannot be ended, write a checkpoint of the step before and raise.

        The reason is a LoaderError, because its clips cannot be read any more, or a StoppedError, because a signal to
        all processes of the command has also ended a compiler that `torch.compile` has started.
        """
        random = random_state()
        try:
            return self._train_step(batches)
        except (LoaderError, TorchDynamoException) as error:
            compiled = isinstance(error, TorchDynamoException)
            if compiled and not stop.received:
                raise
            if self.world.size == 1:  # other processes would wait inside their step, and cannot write a checkpoint
                restore_random_state(random)
                self._save()
            before = f"step {self.step + 1} of {self.total} was not made, and the same command goes on from {self.run}"
            if compiled:
                raise StoppedError(stop.received, f"stopped while a step was compiled; {before}") from error
            raise LoaderError(f"{error}; {before}") from error

    def _train_step(self, batches: Iterator[dict]) -> tuple[dict[str, torch.Tensor], int]:
        config, accumulate = self.config, self.config.optim.accumulate
        first = self._epoch < config.vtc_epochs
        loss_config = dataclasses.replace(config.loss, alignment="vtc") if first else config.loss
        set_learning_rate(self.optimizer, learning_rate(self.step, self.total, config.optim))
        means: dict[str, torch.Tensor] = {}
        paths: list[str] = []
        replaced = 0
        for number, batch in enumerate(islice(batches, accumulate), start=1):
            paths += map(str, batch["path"])
            replaced += int(batch.get("replaced", 0))
            inputs = {k: v.to(self.world.device, non_blocking=True) for k, v in batch.items() if torch.is_tensor(v)}
            # Shares of gradients are small and can be added up. Otherwise, each process would hold the whole gradient.
            between = self.world.size > 1 and number < accumulate and self.sharded is None
            with self.parallel.no_sync() if between else nullcontext():
                with torch.autocast(self.world.device.type, DTYPES[config.precision], config.precision != "fp32"):
                    values = self.parallel(inputs, loss_config)
                self.finite.note("loss", values["loss"], self.step + 1, paths)
                self.scaler.scale(values["loss"] / accumulate).backward()
            for name, value in values.items():
                means[name] = means.get(name, 0.0) + value.detach() / accumulate
        if self.sharded:
            self.sharded.average_scalars()
        self.scaler.unscale_(self.optimizer)
        largest = config.optim.clip_norm or math.inf
        if self.sharded:
            norm = self.sharded.clip_gradients(largest)
        else:
            norm = nn.utils.clip_grad_norm_(self.model.parameters(), largest)
        if not self.scaler.is_enabled():  # in fp16 infinities are normal: the scaler skips these steps
            self.finite.note("gradient norm", norm, self.step + 1, paths)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        self.replaced += replaced
        return means | {"grad_norm": norm}, len(paths)

    def _save(self) -> None:
        self.finite.require()
        with self.world.agreed(ckpt.CheckpointError):
            if self.world.is_main:
                ckpt.require_kept(self.kept, self.step)
        outside = {"without_tower": self.tower is not None, "without_language": self.language is not None}
        groups = {
            "model": ckpt.model_tensors(self.model, **outside),
            "optimizer": ckpt.optimizer_tensors(self.model, self.optimizer),
            "random": self.world.gather(random_state()),
        }
        state = {
            "step": self.step,
            "world": self.world.size,
            "sharded": self.sharded is not None,
            "global_batch": self.sampler.whole,
            "threads": torch.get_num_threads(),
            "replaced": self.world.sum(self.replaced),
            "best": self.best,
            "unmeasured": self.unmeasured,
            "scaler": self.scaler.state_dict(),
            "tower": self.tower,
            "language": self.language,
            "data": self.data,
            "config": to_dict(self.config),
        }
        self.kept = ckpt.write_checkpoint(self.run, self.step, groups, state, keep=self.config.keep, world=self.world)

    def _load(self, path: Path) -> None:
        state = ckpt.read_state(path)
        if absent := [name for name in ("world", "replaced", "scaler") if name not in state]:
            raise ckpt.CheckpointError(
                f"{path / ckpt.STATE}: there is no {absent[0]!r}, expected the values that a run writes"
            )
        self._require_same_batch(path, state)
        warn_of_threads(state.get("threads"))  # version 0.1.0 did not record the threads
        ckpt.load_model(self.model, path, tower=self.tower, language=self.language, world=self.world)
        ckpt.load_optimizer(self.model, self.optimizer, path, self.world)
        self.scaler.load_state_dict(state["scaler"])
        self.kept, self.best, self.unmeasured = path, state.get("best"), state.get("unmeasured")
        self.step, self.replaced = state["step"], state["replaced"] if self.world.is_main else 0
        if self.world.rank < state["world"]:
            ckpt.load_random(path, self.world.rank, state["world"])
        else:  # the checkpoint has no state for this process, which is seeded by its number and the step
            seed_everything(self.config.seed, self.step, self.world.rank)

    def _require_same_batch(self, path: Path, state: dict) -> None:
        """Raise ValueError unless all processes together have as many pairs in a batch as when `path` was written."""
        # Checkpoints of version 0.1.0 do not hold the size of the whole batch.
        before = state.get("global_batch", state["world"] * self.config.batch_size)
        processes = f"{state['world']} processes, but now there are {self.world.size}"
        if before != self.sampler.whole:
            raise ValueError(
                f"{path} was written by {processes}: their batches had {before} pairs in all, and now have "
                f"{self.sampler.whole}; go on with --global-batch {before}, or start another run from its weights with "
                f"--init {self.run}"
            )
        if state["world"] != self.world.size:
            logger.warning("%s was written by %s; sums are rounded differently, and dropout differs", path, processes)
        if state.get("sharded", False) != (self.sharded is not None):
            logger.warning("%s was written with another value of --sharded; sums are rounded differently", path)


def own_batch(config: TrainConfig, processes: int) -> int:
    """The number of pairs in a batch of one process. Raises ValueError if `global_batch` cannot be shared equally."""
    if config.global_batch is None:
        return config.batch_size
    if config.global_batch % processes:
        raise ValueError(f"global_batch is {config.global_batch}, expected a multiple of the {processes} processes")
    return config.global_batch // processes
