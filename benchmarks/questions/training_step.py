"""5. How much faster is a training step of the whole model, and what share of its time does each part take?

A frozen tower may take most of a step, and a faster graph does not change its time. So the step is timed twice: with
the tower in the loop, and on cached features, where only the trained parts run. Texts have the lengths of captions. The
released model pads them to the longest length that it takes, and computes the logits of padding.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from benchmarks import parts
from benchmarks.agreement import check_model
from benchmarks.case import Bench, Case
from benchmarks.inputs import DTYPES
from benchmarks.memory import OutOfMemoryError, out_of_memory_is_an_error, peak_memory
from benchmarks.models import (
    as_released,
    collated,
    eager_tower,
    in_dtype,
    make_batch,
    make_model,
    released_qformer,
    shape_of,
)
from benchmarks.rows import Row
from stgt.config import LossConfig, OptimConfig
from stgt.memory import keep_freed_memory
from stgt.models.stgt import STGT
from stgt.paper.sizes import model_config
from stgt.training.optim import make_optimizer, set_learning_rate

LARGEST = 32 << 20
"""Bytes of the largest blocks that glibc does not return after each use by itself"""
FEWEST = 2
"""The smallest batch: matching needs a wrong clip for each text"""


@dataclass(frozen=True)
class Variant:
    name: str
    dense: bool
    """Whether the graph and its attention are computed as in the released model"""
    rest: bool
    """Whether the tower, the Q-Former and the optimizer are those of the released model, too"""


RELEASED = Variant("released model", dense=True, rest=True)
DENSE = Variant("released graph attention alone", dense=True, rest=False)
KERNELS = Variant("stgt_kernels", dense=False, rest=False)


def cases(device: str, quick: bool) -> list[Case]:
    if quick:
        return [case("quickstart", "fp32", B=8, T=8, cached=False)]
    if device == "cuda":
        return [case("ViT-g", "bf16", B=20, T=T, cached=cached) for cached in (False, True) for T in (8, 32, 64)]
    # A CPU without AVX-512 would take minutes for each variant of eight frames.
    T = 8 if "AVX512" in torch.backends.cpu.get_cpu_capability() else 4
    large = [case("ViT-B", "fp32", B=2, T=T, cached=cached, variants=(KERNELS, RELEASED)) for cached in (False, True)]
    small = [case("quickstart", "fp32", B=32, T=8, cached=False, kept=kept) for kept in (False, True)]
    return [small[0], *large, small[1]]


def case(
    size: str,
    dtype: str,
    *,
    B: int,
    T: int,
    cached: bool,
    kept: bool = False,
    variants: tuple[Variant, ...] = (KERNELS, DENSE, RELEASED),
) -> Case:
    compute = partial(compare, size=size, dtype=dtype, B=B, T=T, cached=cached, kept=kept, variants=variants)
    return Case(name_of(size, dtype, T, cached, kept), compute)


def name_of(size: str, dtype: str, T: int, cached: bool, kept: bool = False) -> str:
    name = f"{size} T={T} {dtype}, {'cached features' if cached else 'tower in the loop'}"
    return f"{name}, all memory kept" if kept else name


def compare(
    bench: Bench, *, size: str, dtype: str, B: int, T: int, cached: bool, kept: bool, variants: tuple[Variant, ...]
) -> list[Row]:
    """Times variants at their largest batches that fit in memory, of B, B/2, B/4, ... The tower computes in dtype.

    kept: whether the process keeps all freed memory, as in our trainer, or only blocks up to LARGEST.
    """
    config, device = in_dtype(model_config(size), dtype), bench.device
    if device.type == "cpu":
        keep_freed_memory(None if kept else LARGEST)  # This holds for the whole process, so for all variants.
    training = Training(make_model(config, device, cached), T, dtype, device)
    batch = make_batch(config, B, T, cached, device)

    rows, steps, fields, expected = [], {}, {}, None
    for variant in variants:
        shape = shape_of(config, B, T)
        try:
            with out_of_memory_is_an_error(device):
                output = training.output(variant, clips(batch, FEWEST))
            shape["B"], memory = training.largest_batch(variant, batch)
        except OutOfMemoryError:
            rows.append(Row(variant.name, dtype, shape, missing=f"out of memory, with {FEWEST} clips as well"))
            continue
        expected = output if expected is None else expected
        for found, right in zip(output, expected, strict=True):
            check_model(variant.name, found, right, dtype)
        fitting = as_given(variant, clips(batch, shape["B"]))
        step = partial(training.step, variant, fitting)
        with training.using(variant, shape["B"]):
            step_alone, optimizer = partial(training.run, variant, fitting), training.optimizers[variant.rest]
            shares = parts.shares(step_alone, training.model, optimizer, device)
        steps[variant.name], fields[variant.name] = step, (shape, memory, shares)

    for name, timing in bench.measure(steps, 3 * bench.seconds).items():
        shape, memory, shares = fields[name]
        details = {"clips": shape["B"], "clips/s": shape["B"] / timing.median}
        rows.append(Row.timed(name, dtype, shape, timing, peak_memory=memory, details=details, parts=shares))
    return rows


def clips(batch: dict[str, Tensor], count: int) -> dict[str, Tensor]:
    return {name: tensor[:count] for name, tensor in batch.items()}


def as_given(variant: Variant, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """The batch with the padding that a variant computes on."""
    return batch if variant.rest else collated(batch)


@dataclass
class Training:
    """A model and its optimizer. The learning rate is 0: a step does all its work, but does not change the weights."""

    model: STGT
    frames: int
    dtype: str
    device: torch.device

    def __post_init__(self) -> None:
        ours = make_optimizer(self.model.parameters(), OptimConfig())
        settings = ("lr", "betas", "eps", "weight_decay")
        groups = [{name: group[name] for name in ("params", *settings)} for group in ours.param_groups]
        self.optimizers = {False: ours, True: torch.optim.AdamW(groups)}
        for optimizer in self.optimizers.values():
            set_learning_rate(optimizer, 0.0)
            for parameter in (p for group in optimizer.param_groups for p in group["params"]):
                parameter.grad = torch.zeros_like(parameter)
            optimizer.step()  # creates its state, which would count for the memory of the first step
            optimizer.zero_grad(set_to_none=True)

    @contextmanager
    def using(self, variant: Variant, texts: int) -> Iterator[None]:
        """Within the block, the model is a variant for batches of so many texts."""
        with ExitStack() as stack:
            if variant.dense:
                stack.enter_context(as_released(self.model.graph, self.frames, self.device))
            if variant.rest:
                stack.enter_context(eager_tower(self.model))
                stack.enter_context(released_qformer(self.model, texts))
            yield

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, DTYPES[self.dtype], enabled=self.dtype != "fp32")

    @torch.no_grad()
    def output(self, variant: Variant, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """The video tokens that the Q-Former reads, and the loss, without dropout."""
        self.model.eval()
        embeds: list[Tensor] = []
        hook = self.model.ln_vision.register_forward_hook(lambda module, given, result: embeds.append(result))
        with self.using(variant, len(batch["input_ids"])), self.autocast():
            loss = self.model(as_given(variant, batch), LossConfig(), torch.Generator().manual_seed(0))["loss"]
        hook.remove()
        self.model.train()
        return embeds[0], loss

    def step(self, variant: Variant, batch: dict[str, Tensor]) -> None:
        with self.using(variant, len(batch["input_ids"])):
            self.run(variant, batch)

    def run(self, variant: Variant, batch: dict[str, Tensor]) -> None:
        """Does one training step as the trainer does, from the batch to the optimizer's step."""
        with self.autocast():
            loss = self.model(batch, LossConfig())["loss"]
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizers[variant.rest].step()
        self.optimizers[variant.rest].zero_grad(set_to_none=True)

    def largest_batch(self, variant: Variant, batch: dict[str, Tensor]) -> tuple[int, int | None]:
        """The largest batch that fits, and the bytes that its step adds at the peak, which None leaves open.

        Raises OutOfMemoryError if not even FEWEST clips fit.
        """
        count = len(batch["input_ids"])
        while True:
            try:
                with out_of_memory_is_an_error(self.device):
                    return count, peak_memory(
                        partial(self.step, variant, as_given(variant, clips(batch, count))), self.device
                    )
            except OutOfMemoryError:
                self.model.zero_grad(set_to_none=True)
                if count <= FEWEST:
                    raise
                count = max(count // 2, FEWEST)
