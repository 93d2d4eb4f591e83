"""The output of a run while it trains: a progress bar, a line of JSON for each record, and curves."""

from __future__ import annotations

import json
import logging
import mmap
import os
import resource
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import TextIO

import torch
from tqdm import tqdm

from stgt.training.records import JsonLines
from stgt.training.trackers import Tracker

logger = logging.getLogger(__name__)

LOSSES = ("loss", "vtc", "csal", "vtm", "vtg", "host", "osc", "ptc", "distillation", "labels")
UNITS = {"edges_per_token": "edges", "clips_per_s": "clips/s", "memory_gib": "GiB"}


class RunLog:
    """The log of one run folder. Records after `step` come from steps that were lost, and are removed.

    unmeasured: whether the validation after `step` will be made again, so that an earlier record of it is removed, too.
    """

    def __init__(self, run: Path, step: int, total: int, tracker: Tracker, *, unmeasured: bool = False) -> None:
        self.path = run / "log.jsonl"
        _remove_lost(self.path, step, unmeasured)
        self.lines = JsonLines(self.path)
        self.tracker = tracker
        terminal = _Terminal(sys.stderr)
        self.bar = tqdm(total=total, initial=step, unit="step", dynamic_ncols=True, smoothing=0.1, file=terminal)
        self._values: dict[str, list[torch.Tensor]] = {}
        self._clips = 0
        self._since = time.perf_counter()

    def add(self, values: dict[str, torch.Tensor], clips: int) -> None:
        """Add the scalars of one step to the averages of the next record, without waiting for the device."""
        for name, value in values.items():
            self._values.setdefault(name, []).append(value.detach())
        self._clips += clips
        self.bar.update()

    def record(self, step: int, device: torch.device, **facts: float) -> None:
        """Write the averages since the last record, and `facts`, which are not averaged."""
        now = time.perf_counter()
        values = {name: float(torch.stack(each).mean()) for name, each in self._values.items()}
        values |= facts | {"clips_per_s": self._clips / (now - self._since), "memory_gib": memory_gib(device)}
        self.lines.write({"step": step, **values})
        self.tracker.write({f"train/{name}": value for name, value in values.items()}, step)
        self.bar.set_postfix_str(shown(values))
        self._values, self._clips, self._since = {}, 0, now

    def validated(self, step: int, figures: dict[str, float], seconds: float) -> None:
        """Write the figures of the validation split as a separate record. Its seconds do not count for clips_per_s."""
        self.lines.write({"step": step, "val": figures})
        self.tracker.write({f"val/{name}": value for name, value in figures.items()}, step)
        shown = ", ".join(f"{name} {value:.1f}" for name, value in figures.items())
        self.bar.write(f"step {step}, validation: {shown}", file=_Terminal(sys.stdout))
        self._since += seconds

    def close(self) -> None:
        """End the progress bar and the curves."""
        self.bar.close()
        self.tracker.close()


def shown(values: dict[str, float]) -> str:
    """The losses of a record, and then its quantities with their units."""
    losses = [f"{name} {values[name]:.3g}" for name in LOSSES if name in values]
    quantities = [f"{values[name]:.3g} {unit}" for name, unit in UNITS.items() if name in values]
    return ", ".join([" ".join(losses), *quantities])


class _Terminal:
    """A stream that may be closed. The run goes on if its terminal goes away, or if nobody reads its pipe any more."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> None:
        with suppress(OSError):
            self._stream.write(text)

    def flush(self) -> None:
        with suppress(OSError):
            self._stream.flush()

    def __getattr__(self, name: str) -> object:
        return getattr(self._stream, name)


def read_log(run: Path) -> list[dict]:
    """The records of a run. A line that a crash cut off, or that is not a record, is passed over with a warning."""
    path = run / "log.jsonl"
    if not path.exists():
        return []
    records = []
    with open(path, "rb") as file:
        for number, line in enumerate(file, start=1):
            if (record := _record(line)) is None:
                logger.warning("%s: line %d is not a record and is passed over", path, number)
            else:
                records.append(record)
    return records


def last_step(run: Path) -> dict:
    """The last record of training. The record of a validation may come after it, and has no losses."""
    return next(record for record in reversed(read_log(run)) if "val" not in record)


def _record(line: bytes) -> dict | None:
    """The record in a line of the log, or None if the line is none."""
    try:
        # There are no further checks, since the norm of a gradient in fp16 may be infinite.
        record = json.loads(line.decode("utf-8", errors="replace"))
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) and type(record.get("step")) is int else None


def _remove_lost(path: Path, step: int, unmeasured: bool) -> None:
    """Cut off the end of a log from the first record that was lost after `step`. Other lines stay as they are.

    Steps only grow from line to line, so the log is read from its end, and no further than to the last record that is
    kept. A log of millions of records takes no longer than a short one.
    """
    path.touch()
    with open(path, "r+b") as file:
        if not (end := file.seek(0, os.SEEK_END)):
            return
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as log:
            while end:
                start = log.rfind(b"\n", 0, end - 1) + 1
                record = _record(log[start:end])
                again = unmeasured and record is not None and record["step"] == step and "val" in record
                if record is not None and record["step"] <= step and not again:
                    break
                end = start
            whole = end == 0 or log[end - 1 : end] == b"\n"
        file.truncate(end)
        if not whole:
            file.seek(end)
            file.write(b"\n")


def memory_gib(device: torch.device) -> float:
    """The most memory that this process has used, in GiB: on the GPU if it trains there, and else of the machine."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
