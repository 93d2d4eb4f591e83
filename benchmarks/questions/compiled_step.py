"""15. How much faster is a training step under torch.compile, as `stgt train --compile` has it?

The details give the seconds of the first step, which compiles. A batch with another length of text compiles once more.
"""

import time
from functools import partial

import torch

from benchmarks.agreement import check_model
from benchmarks.case import Bench, Case
from benchmarks.models import collated, in_dtype, make_batch, make_model, shape_of
from benchmarks.questions.training_step import KERNELS, Training
from benchmarks.rows import Row
from stgt.memory import keep_freed_memory
from stgt.paper.sizes import model_config


def cases(device: str, quick: bool) -> list[Case]:
    size, dtype, B = ("ViT-g", "bf16", 20) if device == "cuda" else ("quickstart", "fp32", 8 if quick else 32)
    return [Case(f"{size} T=8 {dtype}, tower in the loop", partial(compare, size=size, dtype=dtype, B=B, T=8))]


def compare(bench: Bench, *, size: str, dtype: str, B: int, T: int) -> list[Row]:
    config, device = in_dtype(model_config(size), dtype), bench.device
    shape = shape_of(config, B, T)
    if device.type == "cpu":
        keep_freed_memory()
    model, batch = make_model(config, device, cached=False), collated(make_batch(config, B, T, False, device))
    models, rows = {KERNELS.name: model, f"{KERNELS.name}, compiled": torch.compile(model)}, []
    if bench.quick:
        name, _ = models.popitem()
        rows.append(Row(name, dtype, shape, missing="left out by --quick: it takes long to compile"))
    steps, details, expected = {}, {}, None
    for name, called in models.items():
        training = Training(called, T, dtype, device)
        found = training.output(KERNELS, batch)
        expected = found if expected is None else expected
        for ours, right in zip(found, expected, strict=True):
            check_model(name, ours, right, dtype)
        steps[name] = partial(training.run, KERNELS, batch)
        begin = time.perf_counter()
        steps[name]()
        details[name] = {"first step, s": time.perf_counter() - begin}
    times = bench.measure(steps, bench.seconds)
    return rows + [Row.timed(name, dtype, shape, times[name], details=details[name]) for name in steps]
