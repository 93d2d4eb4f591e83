"""The kernel tests on the GPU's backends, shared out to processes, for most of their time goes into compiling."""

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
# What Triton's compiler makes for other GPUs is tested without one.
TESTS = ["tests/kernels", "--ignore=tests/kernels/test_triton_compile.py"]


def run(out: Path) -> tuple[list[Check], dict]:
    """Outcomes are in tests.jsonl as they come, logs in tests.log at the end."""
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
    """Prints failures as they come, and every half minute how far the tests are."""

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
    """Of a record: tests by (backend, outcome), what each failure says, and how many tests were never begun.

    finished: a test that has no outcome yet is never going to have one.
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
