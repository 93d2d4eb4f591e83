"""Runs the kernel tests on the GPU's backends in several processes, since most of their time goes into compiling."""

import os
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from benchmarks.gpu_check.processes import run_to_end
from benchmarks.gpu_check.record import Record
from benchmarks.gpu_check.report import Check

SECONDS = 450
PYTEST = ["-m", "pytest", "-vv", "--continue-on-collection-errors"]
PYTEST += ["-p", "benchmarks.gpu_check.shard", "-p", "no:cacheprovider"]
# This file compiles Triton's kernels for given GPUs, and needs none.
TESTS = ["tests/kernels", "--ignore=tests/kernels/test_triton_compile.py"]


def run(out: Path) -> tuple[list[Check], dict]:
    """Runs the tests. Outcomes are written to tests.jsonl as they come, and logs to tests.log at the end."""
    out.mkdir(parents=True, exist_ok=True)
    record = Record(out / "tests.jsonl")
    record.path.unlink(missing_ok=True)
    shards = max(1, min((os.cpu_count() or 1) - 2, 14))
    commands = [["env", f"STGT_SHARD={i}/{shards}", sys.executable, *PYTEST, *TESTS] for i in range(shards)]
    with tempfile.TemporaryDirectory() as folder:
        logs, show = Path(folder), Progress(record)
        ended = run_to_end(commands, logs, time.monotonic() + SECONDS, show, STGT_RECORD=str(record.path))
        show()
        (out / "tests.log").write_text("".join((logs / f"{i}.log").read_text() for i in range(shards)))
    counts, failures, missing = count(record.read())
    ran, total = Counter(), Counter()
    for (backend, outcome), n in counts.items():
        total[outcome] += n
        ran[backend] += n if outcome != "skipped" else 0
    checks = [
        Check("processes that came to an end", f"{ended} of {shards}", "all", ended == shards),
        Check("tests", ", ".join(f"{n} {outcome}" for outcome, n in sorted(total.items())), "", None),
        *(Check(f"tests on {name}", str(ran[name]), "> 500", ran[name] > 500) for name in ("cuda", "triton")),
        Check("never begun", str(missing), "0", missing == 0),
        Check("failures", str(len(failures)), "0", not failures),
    ]
    return checks, {"failures": failures, "counts": {" ".join(key): n for key, n in sorted(counts.items())}}


class Progress:
    """Prints failures as they come, and the progress every half minute."""

    def __init__(self, record: Record) -> None:
        self.record, self.shown, self.begin, self.last = record, set(), time.monotonic(), 0.0

    def __call__(self) -> None:
        counts, failures, missing = count(self.record.read(), finished=False)
        for name in failures.keys() - self.shown:
            self.shown.add(name)
            print(f"{name}\n    {failures[name].splitlines()[0]}", flush=True)
        seconds = time.monotonic() - self.begin
        if seconds - self.last >= 30:
            self.last = seconds
            print(f"{seconds:.0f} s: {counts.total()} tests, {len(failures)} failures, {missing} to go", flush=True)


def count(pieces: dict[str, Any], finished: bool = True) -> tuple[Counter, dict[str, str], int]:
    """Returns counts of tests by (backend, outcome), the message of each failure, and the number of tests not begun.

    finished: whether the processes have ended, so that a test without an outcome has died.
    """
    counts, failures, missing = Counter(), {}, 0
    for name, result in pieces.items():
        if name.startswith("collected "):
            missing += result
            continue
        missing -= not name.startswith("collecting ")
        if result is None and not finished:
            continue
        if result is None:
            result = {"outcome": "died", "backend": None, "message": "its process died, or it took too long: tests.log"}
        counts[result["backend"] or "none", result["outcome"]] += 1
        if result["outcome"] in ("failed", "died"):
            failures[name] = result["message"] or "failed"
    return counts, failures, missing
