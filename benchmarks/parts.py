"""Measures each part's share of the time of a training step, forward and backward, with torch.profiler."""

from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from unittest import mock

import torch
from torch import nn
from torch.autograd import DeviceType
from torch.autograd.profiler_util import FunctionEvent
from torch.profiler import ProfilerActivity, profile, record_function

from stgt import losses
from stgt.models.stgt import STGT

TOWER, GRAPH, ATTENTION, LAYER = "vision tower", "graph construction", "graph attention", "rest of the graph layer"
QFORMER, LOSSES, OPTIMIZER, OTHER = "Q-Former and heads", "losses", "optimizer", "other"
PARTS = (TOWER, GRAPH, ATTENTION, LAYER, QFORMER, LOSSES, OPTIMIZER, OTHER)
LOSS_FUNCTIONS = ("similarity", "vtc_loss", "csal_targets", "csal_loss", "hard_negatives", "vtm_loss", "vtg_loss")
BACKWARD = "autograd::engine::evaluate_function: "


def shares(step: Callable[[], object], model: STGT, optimizer: torch.optim.Optimizer, device: torch.device) -> dict:
    """Each part's share of the time of a step. On the CPU this is CPU time, and on a GPU the time of the kernels.

    A backward operation belongs to the part whose forward operation recorded it.
    """
    events = recorded(step, model, optimizer, device)
    seconds = times(events, kernel_time if device.type == "cuda" else lambda event: event.cpu_time_total)
    total = sum(seconds.values())
    return {part: seconds[part] / total for part in PARTS if seconds[part]}


def recorded(
    step: Callable[[], object], model: STGT, optimizer: torch.optim.Optimizer, device: torch.device
) -> list[FunctionEvent]:
    """The events that torch.profiler records on the host during one step. Each part of the step is a named event."""
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device.type == "cuda" else [])]
    with profile(activities=activities):  # the first profile of a process is slow in odd places, so it is not used
        torch.ones(1, device=device).add_(1)
    with profile(activities=activities) as profiled, named_parts(model, optimizer):
        step()
        if device.type == "cuda":
            torch.cuda.synchronize()
    return [event for event in profiled.events() if event.device_type == DeviceType.CPU]


def times(events: list[FunctionEvent], time: Callable[[FunctionEvent], float]) -> dict[str, float]:
    """The time of each part. If a part runs within another, its time counts for the inner part alone."""
    seconds: dict[str, float] = defaultdict(float)
    part_of: dict[int, str] = {}
    for event in events:
        part = enclosing_part(event)
        if event.name in PARTS:
            seconds[event.name] += time(event)
            if part:
                seconds[part] -= time(event)
        elif part and event.sequence_nr >= 0 and not event.name.startswith(BACKWARD):
            part_of[event.sequence_nr] = part
    for event in events:
        # Backward events are not enclosed by a part, since no part of a training step calls backward() itself.
        if event.name.startswith(BACKWARD):
            seconds[part_of.get(event.sequence_nr, OTHER)] += time(event)
    return seconds


def kernel_time(event: FunctionEvent) -> float:
    """The time of the kernels that an event and its children launched.

    The profiler also lists the whole span of a part's kernels as a kernel with the part's name. It is left out.
    """
    own = sum(kernel.duration for kernel in event.kernels if kernel.name not in PARTS)
    return own + sum(kernel_time(child) for child in event.cpu_children)


def enclosing_part(event: FunctionEvent) -> str | None:
    parent = event.cpu_parent
    while parent is not None and parent.name not in PARTS:
        parent = parent.cpu_parent
    return parent.name if parent is not None else None


@contextmanager
def named_parts(model: STGT, optimizer: torch.optim.Optimizer) -> Iterator[None]:
    """Within the block, every part of a step runs as a named event of the profiler.

    The rest of the model's forward pass belongs to the Q-Former and the heads.
    """
    with ExitStack() as stack:

        def name(owner: object, attribute: str, part: str) -> None:
            stack.enter_context(mock.patch.object(owner, attribute, named(part, getattr(owner, attribute))))

        if model.vision is not None:
            name(model.vision, "forward", TOWER)
        name(model.graph, "forward", LAYER)
        for block in model.graph.blocks:
            name(block, "build_graph", GRAPH)
            name(block.graph_attention, "forward", ATTENTION)
        for function in LOSS_FUNCTIONS:
            name(losses, function, LOSSES)
        name(model, "forward", QFORMER)
        name(optimizer, "step", OPTIMIZER)
        name(nn.utils, "clip_grad_norm_", OPTIMIZER)
        yield


def named(part: str, function: Callable) -> Callable:
    def wrapped(*args, **kwargs):
        with record_function(part):
            return function(*args, **kwargs)

    return wrapped
