"""The kernel tests on every backend, shared out to processes, for most of their time goes into compiling."""

import os
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from benchmarks.gpu_check.processes import finish, start
from benchmarks.gpu_check.report import Check

SECONDS = 500
PYTEST = ["-m", "pytest", "-p", "benchmarks.gpu_check.shard", "-p", "no:cacheprovider", "-vv"]
# What Triton's compiler makes for other GPUs is tested without one.
TESTS = ["tests/kernels", "--ignore=tests/kernels/test_triton_compile.py"]


def run(out: Path) -> tuple[list[Check], dict]:
    out.mkdir(parents=True, exist_ok=True)
    shards = max(1, min((os.cpu_count() or 1) - 2, 14))
    deadline = time.monotonic() + SECONDS
    with tempfile.TemporaryDirectory() as folder:
        logs = Path(folder)
        processes = [
            start(
                [sys.executable, *PYTEST, f"--junitxml={logs / f'{i}.xml'}", *TESTS],
                logs / f"{i}.log",
                STGT_SHARD=f"{i}/{shards}",
                PYTHONUNBUFFERED="1",
            )
            for i in range(shards)
        ]
        codes = [finish(process, deadline) for process in processes]
        (out / "tests.log").write_text("".join((logs / f"{i}.log").read_text() for i in range(shards)))
        counts, failures = count(sorted(logs.glob("*.xml")))
    for name, message in failures.items():
        print(f"{name}\n    {message}", flush=True)
    ended = sum(code in (0, 1) for code in codes)
    ran, total = Counter(), Counter()
    for (backend, outcome), n in counts.items():
        total[outcome] += n
        ran[backend] += n if outcome != "skipped" else 0
    checks = [
        Check("processes that came to an end", f"{ended} of {shards}", "all", ended == shards),
        Check("tests", ", ".join(f"{n} {outcome}" for outcome, n in sorted(total.items())), "", None),
        *(Check(f"tests on {name}", str(ran[name]), "> 500", ran[name] > 500) for name in ("cuda", "triton")),
        Check("failures", str(len(failures)), "0", not failures),
    ]
    return checks, {"failures": failures, "counts": {" ".join(key): n for key, n in sorted(counts.items())}}


def count(reports: Iterable[Path]) -> tuple[Counter, dict[str, str]]:
    """Tests by (backend, outcome), and the first line of each failure by the test's name."""
    counts, failures = Counter(), {}
    for path in reports:
        for case in ElementTree.parse(path).iter("testcase"):
            name = case.get("name", "")
            problem = next((case.find(tag) for tag in ("failure", "error") if case.find(tag) is not None), None)
            outcome = "failed" if problem is not None else "skipped" if case.find("skipped") is not None else "passed"
            counts[backend_of(name), outcome] += 1
            if problem is not None:
                message = (problem.get("message") or "").splitlines()
                failures[f"{case.get('classname')}::{name}"] = message[0] if message else ""
    return counts, failures


def backend_of(test: str) -> str:
    """cuda for test_head_dims[1-dtype-cuda]."""
    parameters = test.partition("[")[2].rstrip("]").split("-")
    return next((backend for backend in ("cuda", "triton", "cpu", "reference") if backend in parameters), "none")
