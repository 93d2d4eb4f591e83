"""Runs the kernel tests on the GPU's backends in several processes, since most of their time goes into compiling."""

import os
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from benchmarks.gpu_check.processes import run_to_end
from benchmarks.gpu_check.record import RECORDS, Record
from benchmarks.gpu_check.report import Check, log

SECONDS = 450
PYTEST = ["-m", "pytest", "-v", "--tb=short", "--continue-on-collection-errors"]
PYTEST += ["-p", "benchmarks.gpu_check.shard", "-p", "no:cacheprovider"]
# These compile Triton's kernels for given GPUs, and run the CPU's kernels with each instruction set. They take long and
# need no GPU.
LEFT_OUT = ("test_triton_compile.py", "test_instruction_sets.py")
TESTS = ["tests/kernels", *(f"--ignore=tests/kernels/{name}" for name in LEFT_OUT)]


def run(out: Path, deadline: float) -> tuple[list[Check], dict]:
    """Runs the tests. Outcomes are recorded as they come, and the logs are kept at the end."""
    record = Record(out / RECORDS, "tests")
    record.clear()
    names = shards(os.cpu_count() or 1)
    commands = [["env", f"STGT_SHARD={name}", sys.executable, *PYTEST, *TESTS] for name in names]
    with tempfile.TemporaryDirectory() as folder:
        logs, show = Path(folder), Progress(record)
        until = min(time.monotonic() + SECONDS, deadline)
        ended = run_to_end(commands, logs, until, show, STGT_RECORD=str(record.path))
        show()
        for i, name in enumerate(names):
            log(out, f"tests {name}", (logs / f"{i}.log").read_text(errors="replace"))
    counts, failures, missing = count(record.read())
    ran, total = Counter(), Counter()
    for (backend, outcome), n in counts.items():
        total[outcome] += n
        ran[backend] += n if outcome != "skipped" else 0
    checks = [
        Check("processes that came to an end", f"{ended} of {len(names)}", "all", ended == len(names)),
        Check("tests", ", ".join(f"{n} {outcome}" for outcome, n in sorted(total.items())), "", None),
        *(Check(f"tests on {name}", str(ran[name]), "> 500", ran[name] > 500) for name in ("cuda", "triton")),
        Check("never begun", str(missing), "0", missing == 0),
        Check("failures", str(len(failures)), "0", not failures),
    ]
    return checks, {"failures": failures, "counts": {" ".join(key): n for key, n in sorted(counts.items())}}


def shards(cores: int) -> list[str]:
    """The shards of the two backends. Triton's tests get two thirds of the processes, since most of them compile."""
    processes = max(2, min(cores - 2, 14))
    split = {"cuda": max(1, processes // 3)}
    split["triton"] = processes - split["cuda"]
    return [f"{backend}:{i}/{n}" for backend, n in split.items() for i in range(n)]


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
            result = {"outcome": "died", "backend": None, "message": "its process died, or it took too long: log.txt"}
        counts[result["backend"] or "none", result["outcome"]] += 1
        if result["outcome"] in ("failed", "died"):
            failures[name] = result["message"] or "failed"
    return counts, failures, missing
