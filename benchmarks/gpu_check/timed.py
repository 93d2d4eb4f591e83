"""python -m benchmarks.gpu_check.timed PART RECORD: times those pieces of a part that are not in the record yet.

It runs in a separate process, since a kernel that hangs or reads out of bounds ends its process.
"""

import importlib
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks import limits
from benchmarks.case import Bench
from benchmarks.gpu_check.processes import leave_if_the_gpu_is_lost, run_to_end
from benchmarks.gpu_check.record import RECORDS, Record
from benchmarks.gpu_timing import queued_times
from benchmarks.rows import Row

Pieces = dict[str, partial[Row]]
"""{name: a call of speed.measured or edges.measured that lacks only the bench}"""
COMPILED_SECONDS, PIECE_SECONDS = 150, 40
"""The time limits for one piece, where a provider is compiled when it runs, and where it is not"""
SECONDS = 480
LIMITS = "limits"


def run(part: str, out: Path, deadline: float) -> dict[str, Any]:
    """Times a part in a process that is restarted when it dies. Returns all results and the limits of this GPU."""
    record = Record(out / RECORDS, part)
    record.clear()
    command = [sys.executable, "-m", "benchmarks.gpu_check.timed", part, str(record.path)]
    with tempfile.TemporaryDirectory() as folder, (Path(folder) / "0.log").open("w+", errors="replace") as log:
        show = partial(shutil.copyfileobj, log, sys.stdout)
        run_to_end([command], Path(folder), min(time.monotonic() + SECONDS, deadline), show)
        show()
    return record.read()


def rows(pieces: Pieces, found: dict[str, Any]) -> dict[str, Row]:
    """The row of each piece. A piece without a result gets a row with the reason."""

    def row(name: str, piece: partial[Row]) -> Row:
        if found.get(name) is not None:
            return Row(**found[name])
        reason = "its process died, or it took too long" if name in found else "there was no time left for it"
        asked = piece.keywords
        return Row(asked["provider"].name, asked["problem"].dtype, {}, asked["question"], missing=reason)

    return {name: row(name, piece) for name, piece in pieces.items()}


def main(part: str, path: str) -> None:
    module, record = importlib.import_module(f"benchmarks.gpu_check.{part}"), Record(Path(path), part)
    device = torch.device("cuda", torch.cuda.current_device())
    bench = Bench(device, quick=module.QUICK, measure=queued_times, limits=limits.measure(device))
    record.add(LIMITS, asdict(bench.limits))
    begun = record.read()
    for name, piece in module.pieces().items():
        if name in begun:
            continue
        record.begin(name, COMPILED_SECONDS if compiles(piece) else PIECE_SECONDS)
        row = piece(bench)
        row = replace(row, details={**row.details, **clocks()})
        record.end(name, asdict(row))
        if row.missing:
            leave_if_the_gpu_is_lost()


def compiles(piece: partial[Row]) -> bool:
    provider = piece.keywords["provider"]
    return provider.backend == "triton" or getattr(provider, "compiled", False)


def clocks() -> dict[str, float]:
    """Reads the clocks, which are still those of a busy GPU. It does not set them."""
    if not shutil.which("nvidia-smi"):
        return {}
    command = ["nvidia-smi", "--query-gpu=clocks.sm,clocks.mem", "--format=csv,noheader,nounits"]
    answer = subprocess.run(command, capture_output=True, text=True).stdout.split("\n")[0].split(",")
    try:
        return dict(zip(("SM MHz", "memory MHz"), map(float, answer), strict=True))
    except ValueError:
        return {}


if __name__ == "__main__":
    main(*sys.argv[1:])
