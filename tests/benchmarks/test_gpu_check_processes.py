"""The processes of the GPU check: the results of a process are kept when it dies, and the next process continues."""

import os
import sys
import time
from dataclasses import asdict
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from helpers.benchmark_rows import row

from benchmarks.environment import ROOT
from benchmarks.gpu_check import processes, smoke, tests, timed
from benchmarks.gpu_check.record import Record
from benchmarks.limits import Limits
from benchmarks.rows import Row

PATIENCE = 500  # seconds that a process may take on a busy machine


def outcome(name, backend="cuda", message=""):
    return {"outcome": name, "backend": backend, "message": message}


def test_tests_are_counted_by_backend_and_outcome(tmp_path):
    record = Record(tmp_path / "record", "tests")
    record.add("collected 0/2", 4)
    record.add("collected 1/2", 1)
    record.add("collecting test_z.py", outcome("failed", None, "no such module"))
    record.add("test_a::test_x[cuda]", outcome("passed"))
    record.add("test_a::test_x[triton]", outcome("failed", "triton", "off by 3"))
    record.begin("test_a::test_y", 60)
    record.end("test_a::test_y", outcome("skipped", None))
    record.add("test_a::test_z", None)
    begun = {("cuda", "passed"): 1, ("triton", "failed"): 1, ("none", "skipped"): 1, ("none", "failed"): 1}
    counts, failures, missing = tests.count(record.read(), finished=False)
    assert counts == begun and missing == 1 and len(failures) == 2
    counts, failures, missing = tests.count(record.read())
    assert counts == {**begun, ("none", "died"): 1} and missing == 1
    assert list(failures) == ["collecting test_z.py", "test_a::test_x[triton]", "test_a::test_z"]
    assert failures["test_a::test_x[triton]"] == "off by 3" and "its process died" in failures["test_a::test_z"]


def test_a_record_keeps_parts_apart(tmp_path):
    tests_of, speed_of = (Record(tmp_path / "record", part) for part in ("tests", "speed"))
    tests_of.add("a", 1)
    speed_of.add("a", 2)
    assert tests_of.read() == {"a": 1} and speed_of.read() == {"a": 2}
    tests_of.clear()
    assert tests_of.read() == {} and speed_of.read() == {"a": 2}


def test_each_backend_has_processes_of_its_own():
    assert tests.shards(16) == [f"cuda:{i}/4" for i in range(4)] + [f"triton:{i}/10" for i in range(10)]
    assert tests.shards(1) == ["cuda:0/1", "triton:0/1"]


def test_a_smoke_test_gives_a_line_for_each_variant():
    found = {"a: out": "right", "a: dq": "right", "a: end": "right"}
    found |= {"b: out": "right", "b: dq": "AssertionError: dq: off by 3", "b: dk": "right", "b: end": "right"}
    found |= {"c: out": None}
    lines = smoke.checks(["a", "b", "c", "d"], found)
    assert [line.met for line in lines] == [True, False, False, False]
    assert [line.found for line in lines] == [
        "right: out, dq",
        "dq: AssertionError: dq: off by 3; right: out, dk",
        "out: its process died or hung",
        "its process died or hung at once",
    ]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_every_smoke_test_compares_results_and_sees_a_wrong_one(dtype, monkeypatch):
    for results in (
        smoke.attention("cpu", dtype, 20, 12, 0.2, wide=True, device="cpu"),
        smoke.construction("cpu", dtype, 20, 24, device="cpu"),
        smoke.edges("cpu", dtype, 12, 0.2, device="cpu"),
    ):
        for _, check in results:
            check()
    right = smoke.graph_attention
    monkeypatch.setattr(
        smoke, "graph_attention", lambda *a, backend, **k: right(*a, backend=backend, **k) * (1 + (backend == "cpu"))
    )
    for name, check in smoke.attention("cpu", dtype, 20, 12, 0.0, device="cpu"):
        with pytest.raises(AssertionError, match=f"{name}: off by"):
            check()


@pytest.mark.skipif(torch.cuda.is_available(), reason="it tests the verdict on a machine without a GPU")
def test_the_process_of_a_smoke_test_leaves_a_verdict(tmp_path, monkeypatch):
    name = "cuda attention, four groups, bf16 D=64"
    assert name in smoke.variants()
    monkeypatch.setattr(smoke, "variants", lambda: {name: None})
    (check,), _ = smoke.run(tmp_path, time.monotonic() + PATIENCE)
    assert check.met is False and check.found.startswith("run: ") and (tmp_path / "log.txt").exists()


LEAVES_A_CHILD = """
import os, subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print(child.pid, flush=True)
os._exit(3)
"""


def test_children_of_a_dead_process_do_not_go_on(tmp_path):
    deadline = time.monotonic() + PATIENCE
    processes.run_to_end([[sys.executable, "-c", LEAVES_A_CHILD]], tmp_path, deadline, lambda: None)
    child = int((tmp_path / "0.log").read_text())
    while time.monotonic() < deadline and is_running(child):
        time.sleep(0.1)
    assert not is_running(child)


def is_running(pid: int) -> bool:
    """Whether there is a process with this number that has not ended. Nobody may have waited for its end."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_the_tests_that_are_left_out_exist():
    assert all((ROOT / "tests" / "kernels" / name).is_file() for name in tests.LEFT_OUT)


SUITE = """
import os, pytest, signal
@pytest.mark.parametrize("backend", ["cuda", "cpu", "reference", "triton"])
@pytest.mark.parametrize("i", range(3))
def test(backend, i):
    if (backend, i) == ("cuda", 1):
        os.kill(os.getpid(), signal.SIGKILL)
    if (backend, i) == ("triton", 1):
        pytest.skip()
    assert (backend, i) != ("triton", 2), "two"
def test_that_is_not_wanted():
    assert False
"""


def test_shards_run_every_test_once_even_if_a_test_kills_its_process(tmp_path):
    (tmp_path / "test_it.py").write_text(SUITE)
    (tmp_path / "test_bad.py").write_text("import nowhere")
    record = Record(tmp_path / "record", "tests")
    commands = [
        ["env", f"STGT_SHARD={name}", sys.executable, *tests.PYTEST, "-k", "not wanted", str(tmp_path)]
        for name in ("cuda:0/1", "triton:0/1")
    ]
    environment = {"STGT_RECORD": str(record.path), "PYTHONPATH": str(ROOT)}
    shown = []
    ended = processes.run_to_end(
        commands, tmp_path, time.monotonic() + PATIENCE, lambda: shown.append(1), **environment
    )
    log = "".join((tmp_path / f"{i}.log").read_text() for i in range(2))
    assert ended == 2 and shown, log
    counts, failures, missing = tests.count(record.read())
    assert missing == 0 and counts == {
        ("cuda", "passed"): 2,
        ("none", "died"): 1,
        ("triton", "passed"): 1,
        ("triton", "skipped"): 1,
        ("triton", "failed"): 1,
        ("none", "failed"): 1,
    }
    assert any("two" in message for message in failures.values())
    assert any("No module named 'nowhere'" in message for message in failures.values())


WAITS = """
import sys, time
from pathlib import Path
from benchmarks.gpu_check.record import Record
record = Record(Path(sys.argv[1]), "tests")
for piece in ("a", "b", "c"):
    if piece not in record.read():
        record.begin(piece, 0.5 if piece == "b" else 500)
        time.sleep(500 if piece == "b" else 0)
        record.end(piece, piece.upper())
"""


def test_a_piece_that_hangs_ends_its_process_and_the_next_process_continues(tmp_path):
    record = Record(tmp_path / "record", "tests")
    command = [sys.executable, "-c", WAITS, str(record.path)]
    assert processes.run_to_end([command], tmp_path, time.monotonic() + PATIENCE, lambda: None) == 1
    assert record.read() == {"a": "A", "b": None, "c": "C"}
    assert 'File "<string>", line 9' in (tmp_path / "0.log").read_text()  # where it hung


def test_processes_and_their_children_end_at_the_deadline(tmp_path):
    log = tmp_path / "log"
    quick = processes.start([sys.executable, "-c", "import os; print(os.environ['NAME'])"], log, NAME="value")
    assert processes.finish(quick, time.monotonic() + PATIENCE) == 0 and log.read_text() == "value\n"
    script = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import time; time.sleep(500)'])"
    slow = processes.start([sys.executable, "-c", script], log)
    assert processes.finish(slow, time.monotonic() + 0.5) < 0
    with pytest.raises(ProcessLookupError):
        while True:  # the system may take a while to reap the killed processes
            os.killpg(slow.pid, 0)
            time.sleep(0.1)


def test_only_pieces_that_are_not_in_the_record_are_timed(tmp_path, monkeypatch):
    limits = Limits({"bf16": 1e15}, {"bf16": 1e15}, 4e12)
    provider = SimpleNamespace(backend="cuda")
    pieces = {
        "a": partial(lambda bench, provider: 1 / 0, provider=provider),
        "b": partial(lambda bench, provider: row("b", median=bench.limits.bandwidth), provider=provider),
    }
    monkeypatch.setattr(
        timed.importlib, "import_module", lambda name: SimpleNamespace(QUICK=True, pieces=lambda: pieces)
    )
    monkeypatch.setattr(timed.limits, "measure", lambda device: limits)
    monkeypatch.setattr(timed, "clocks", lambda: {"SM MHz": 1980.0})
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    record = Record(tmp_path / "record", "tests")
    record.add("a", None)  # the previous process died while it ran this piece
    timed.main("tests", str(record.path))
    assert record.read()[timed.LIMITS] == asdict(limits)
    assert Row(**record.read()["b"]) == row("b", median=4e12, details={"SM MHz": 1980.0})
