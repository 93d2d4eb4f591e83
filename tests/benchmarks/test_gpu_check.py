"""Those parts of the GPU check that need no GPU: running parts, tables, reading logs, and conclusions."""

import json
import subprocess
import sys
import time
from dataclasses import asdict, replace

import pytest
import torch
from helpers.benchmark_rows import bench, row

from benchmarks.environment import ROOT
from benchmarks.gpu_check import __main__ as gpu_check
from benchmarks.gpu_check import backends, build, ncu, report, sanitizer, small, speed, timed
from benchmarks.gpu_check.report import Check
from benchmarks.inputs import Problem

CPU = torch.device("cpu")
TINY = Problem(T=2, P=16, C=32, H=2, D=8, dtype="bf16")


def test_every_part_can_be_imported_and_has_a_run_function():
    for name in gpu_check.PARTS:
        assert callable(gpu_check.part(name))


def test_the_build_can_be_imported_before_anything_is_built():
    missing = "import sys; sys.modules['stgt_kernels._C'] = sys.modules['stgt_kernels._cuda'] = None; "
    code = missing + "from benchmarks.gpu_check.__main__ import part; part('build')"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_build_that_takes_too_long_is_killed_and_keeps_its_log(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    slow = "import os, time; print(os.environ['TORCH_CUDA_ARCH_LIST'], flush=True); time.sleep(600)"
    began = build.start
    monkeypatch.setattr(build, "start", lambda command, *rest, **named: began([command[0], "-c", slow], *rest, **named))
    with pytest.raises(RuntimeError, match="the build did not end in time; its log ends with:\n9.0\n"):
        build.run(tmp_path, time.monotonic() + 5)
    assert "== build\n9.0" in (tmp_path / "log.txt").read_text()


def test_the_other_parts_run_after_one_that_fails(tmp_path, capsys):
    parts = {
        "build": lambda out, deadline: ([Check("compiles", "3 s", "", True)], {"more": 1}),
        "tests": lambda out, deadline: 1 / 0,
        "speed": lambda out, deadline: ([Check("forward", "0.3 ms", "<= 0.35 ms", True)], {}),
    }
    assert not gpu_check.run(list(parts), tmp_path, CPU, parts.get)
    assert gpu_check.run(["build", "speed"], tmp_path, CPU, parts.get)
    printed = capsys.readouterr().out
    assert "ZeroDivisionError: division by zero" in printed
    kept = json.loads((tmp_path / "checks.json").read_text())
    assert kept["build"]["more"] == 1 and {"torch", "commit", "date"} <= set(kept["build"]["environment"])
    assert kept["build"]["checks"][0] == {"what": "compiles", "found": "3 s", "wanted": "", "met": True}
    assert not kept["tests"]["checks"][0]["met"]  # kept by the second run, which did not run the tests
    last = printed.strip().splitlines()[-6:]
    assert (
        last[0].startswith("| part ")
        and [line.split("|")[1].strip() for line in last[2:]] == ["build"] * 2 + ["speed"] * 2
    )


def test_a_part_gets_the_time_that_is_left_and_none_begins_without_time(tmp_path, capsys):
    deadlines = []
    slow = {"build": lambda out, deadline: (deadlines.append(deadline), ([], {}))[1]}
    begin = time.monotonic()
    assert gpu_check.run(["build"], tmp_path, CPU, slow.get, seconds=100)
    assert begin + 100 <= deadlines[0] <= time.monotonic() + 100
    assert not gpu_check.run(["build"], tmp_path, CPU, slow.get, seconds=gpu_check.SHORTEST - 1)
    assert len(deadlines) == 1 and "19 s were left" in capsys.readouterr().out


def test_the_log_keeps_the_ends_of_long_texts(tmp_path):
    report.log(tmp_path, "first", "x" * report.MOST_LOGGED + "end")
    report.log(tmp_path, "second", "all of it")
    text = (tmp_path / "log.txt").read_text()
    assert text.startswith("== first\n(3 characters are left out)\nx") and "xend\n== second\nall of it\n" in text


def test_an_unmet_target_fails_the_check(tmp_path):
    missed = {"speed": lambda out, deadline: ([Check("forward", "0.4 ms", "<= 0.35 ms", False)], {})}
    assert not gpu_check.run(["speed"], tmp_path, CPU, missed.get)


@pytest.mark.skipif(torch.cuda.is_available(), reason="it tests the error on a machine without a GPU")
def test_the_check_exits_with_a_message_without_a_gpu():
    done = subprocess.run([sys.executable, "-m", "benchmarks.gpu_check"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1 and "finds no CUDA GPU" in done.stderr


def test_an_unknown_part_is_refused(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["gpu_check", "nonsense"])
    with pytest.raises(SystemExit) as stop:
        gpu_check.main()
    assert stop.value.code == 2 and "there is no part nonsense" in capsys.readouterr().err


def test_the_table_has_one_line_per_check():
    text = report.table({"speed": [Check("forward", "0.3 ms", "<= 0.35 ms", True), Check("memory", "1 GiB")]})
    lines = text.splitlines()
    assert lines[0] == "| part  | what    | found  | wanted     | met |"
    assert lines[2] == "| speed | forward | 0.3 ms | <= 0.35 ms | yes |"
    assert lines[3] == "| speed | memory  | 1 GiB  |            |     |"


@pytest.mark.parametrize(
    ("name", "folder"), [("NVIDIA H200", "h200"), ("NVIDIA A100-SXM4-80GB", "a100-sxm4-80gb"), ("Tesla T4", "tesla-t4")]
)
def test_the_folder_is_named_after_the_gpu(name, folder):
    assert report.folder(name).name == folder


CLEAN = "========= COMPUTE-SANITIZER\ndone\n========= ERROR SUMMARY: 0 errors\n"
RACE = """========= COMPUTE-SANITIZER
========= Error: Race reported between Write access at fwd+0x10 and Read access at fwd+0x20 [8 hazards]
done
========= RACECHECK SUMMARY: 1 hazard displayed (1 error, 0 warnings)
"""
INVALID = """========= COMPUTE-SANITIZER
========= Invalid __global__ read of size 16 bytes
=========     at fwd+0x2e0
========= ERROR SUMMARY: 2 errors
"""


@pytest.mark.parametrize(
    ("log", "found", "met"),
    [
        (CLEAN, "0 errors", True),
        (CLEAN.replace("done\n", "Traceback\n"), "0 errors, but the driver failed", False),
        (RACE, "1 errors, the first: Error: Race reported between Write access", False),
        (INVALID, "2 errors, the first: Invalid __global__ read of size 16 bytes", False),
        ("========= COMPUTE-SANITIZER\n========= Device not supported\n", "did not end: ========= Device not", False),
        ("", "did not end: said nothing", False),
    ],
)
def test_verdicts_follow_from_the_logs_of_the_sanitizer(log, found, met):
    text, passed = sanitizer.verdict(log)
    assert text.startswith(found) and passed == met


def test_the_sanitizer_watches_our_kernels_alone_unless_it_needs_all():
    """The names that it looks for are parts of mangled names, which hold the namespace."""
    assert sanitizer.command("racecheck", "cuda")[1:3] == ["--tool", "racecheck"]
    assert "kns=stgt" in sanitizer.command("memcheck", "cuda") and "kns=_kernel" in sanitizer.command(
        "synccheck", "triton"
    )
    assert "--kernel-name" not in sanitizer.command("initcheck", "cuda")


def test_the_sanitizer_s_driver_runs():
    small.attention("cpu", torch.bfloat16, 2, 20, 8, 0.2, device="cpu")
    small.construction("cpu", torch.float32, 2, 20, 24, device="cpu")
    small.edges("cpu", torch.float16, 12, 0.2, device="cpu")


NCU = """==PROF== Connected
"ID","Process ID","Kernel Name","Context","Stream","Section Name","Metric Name","Metric Unit","Metric Value"
"0","7","fwd_sm90<bf16, 88>(Params, Maps)","1","7","Speed Of Light","Duration","us","310.2"
"0","7","fwd_sm90<bf16, 88>(Params, Maps)","1","7","Speed Of Light","DRAM Throughput","%","20.1"
"0","7","fwd_sm90<bf16, 88>(Params, Maps)","1","7","Speed Of Light","SM Frequency","Ghz","1.9"
"1","7","delta<bf16>(Params)","1","7","Launch Statistics","Registers Per Thread","register/thread","32"
"""


def test_the_output_of_ncu_is_parsed():
    assert ncu.kernels(NCU) == [
        ("fwd_sm90<bf16, 88>", "310.2 us, DRAM 20.1 %"),
        ("delta<bf16>", "registers 32 register/thread"),
    ]
    assert ncu.kernels("==ERROR== no permission\n") == []


def measure(question, monkeypatch, rivals=(), backends=("cpu",)):
    monkeypatch.setattr(speed, "QUESTIONS", {question: TINY})
    monkeypatch.setitem(speed.RIVALS, question, list(rivals))
    return {name: piece(bench()) for name, piece in speed.pieces(backends).items()}


@pytest.mark.parametrize("question", [speed.CONSTRUCTION, speed.FORWARD, speed.BACKWARD, speed.BOTH])
def test_our_kernels_are_measured(question, monkeypatch):
    ((name, measured),) = measure(question, monkeypatch).items()
    assert name == f"{question}: stgt_kernels cpu"
    assert measured.missing is None and measured.question == question and measured.provider == "stgt_kernels cpu"
    assert measured.median == 0.5 and measured.tflops > 0 and measured.limit_share > 0
    assert "500.000 ms (400.000-600.000)" in speed.described(measured)
    assert speed.described(replace(measured, details={"SM MHz": 1980.0})).endswith(", 1980 MHz")


def test_rivals_are_measured_and_a_backend_that_cannot_run_says_why(monkeypatch):
    cuda, dense = measure(speed.BOTH, monkeypatch, [speed.DENSE], ["cuda"]).values()
    assert "runs on CUDA tensors" in cuda.missing and dense.missing is None
    assert speed.described(cuda).startswith("missing: it runs on CUDA tensors")


@pytest.mark.parametrize("question", [speed.FORWARD, speed.BACKWARD, speed.BOTH])
def test_a_provider_with_a_wrong_result_keeps_its_time_and_meets_no_target(question, monkeypatch):
    (ours,) = speed.ours(question, ("cpu",))
    wrong = replace(ours, name="stgt_kernels cuda", prepare=lambda inputs: lambda q, k, v: q + k + v)
    (found,) = measure(question, monkeypatch, [wrong], []).values()
    assert found.median == 0.5 and found.missing.startswith("wrong: stgt_kernels cuda: out: off by")
    assert speed.described(found).endswith(found.missing)
    met = {check.what: check for check in speed.targets([replace(found, median=1e-9)])}
    if question != speed.BOTH:
        assert met[f"{question}, cuda"].met is False and "wrong" in met[f"{question}, cuda"].found


def test_a_wrong_graph_keeps_its_time(monkeypatch):
    (ours,) = speed.ours(speed.CONSTRUCTION, ("cpu",))

    def backwards(problem, device):
        return lambda x: ours.prepare(problem, device)(x.flip(1))

    (found,) = measure(speed.CONSTRUCTION, monkeypatch, [replace(ours, prepare=backwards)], []).values()
    assert found.median == 0.5 and found.missing.startswith("wrong: stgt_kernels cpu")


def test_cuda_comes_first_and_what_takes_long_to_compile_comes_last():
    pieces = list(speed.pieces().values())
    others = [piece for piece in pieces if piece.keywords["provider"].backend != "cuda"]
    assert len(pieces) == 26 and pieces[-len(others) :] == others
    compiled = [timed.compiles(piece) for piece in others]
    assert compiled == sorted(compiled) and len(set(compiled)) == 2


def test_a_piece_without_a_result_is_a_row_with_the_reason():
    pieces = speed.pieces()
    first, second, *others = pieces
    result = json.loads(json.dumps(asdict(row("a", question=speed.BOTH))))  # as it is read from the record
    rows = timed.rows(pieces, {first: result, second: None, timed.LIMITS: {}})
    assert rows[first] == row("a", question=speed.BOTH)
    assert "its process died" in rows[second].missing and "no time left" in rows[others[0]].missing
    assert f"{rows[second].question}: {rows[second].provider}" == second


def took(question, provider, milliseconds, **fields):
    return row(
        provider, question=question, median=milliseconds / 1e3, tflops=1 / milliseconds, limit_share=0.5, **fields
    )


def test_targets_are_met_or_missed():
    """Each target is tried once with numbers that meet it and once with numbers that miss it."""
    cuda, triton, dense = "stgt_kernels cuda", "stgt_kernels triton", speed.DENSE.name
    rows = [
        took(speed.CONSTRUCTION, cuda, 0.1),
        took(speed.CONSTRUCTION, triton, 0.2),
        took(speed.FORWARD, cuda, 0.36),
        took(speed.BACKWARD, cuda, 1.1),
        took(speed.BOTH, cuda, 1.5, peak_memory=100),
        took(speed.BOTH, triton, 2.0),
        took(speed.BOTH, "FlexAttention", 4.0),
        took(speed.BOTH, "FlexAttention, max-autotune", 2.9),
        took(speed.BOTH, dense, 60.0, peak_memory=2001),
        took(speed.BOTH, "compiled dense", 14.0),
        took(speed.LONG_BOTH, cuda, 1.6),
        row(dense, question=speed.LONG_BOTH, median=None, missing="out of memory"),
    ]
    met = {check.what: check.met for check in speed.targets(rows)}
    both = speed.BOTH
    assert met == {
        "graph construction, cuda": True,
        "attention forward, cuda": False,
        "attention backward, cuda": True,
        f"{both}: FlexAttention's best over ours": False,
        f"{both}: {dense} over ours": True,
        f"{both}: compiled dense over ours": False,
        "T=64: rate over that at T=8": True,
        f"T=64: {dense}": True,
        f"{both}: peak memory, {dense} over ours": True,
        "graph construction: Triton's rate over CUDA's": False,
        "attention forward: Triton's rate over CUDA's": None,
        "attention backward: Triton's rate over CUDA's": None,
        f"{both}: Triton's rate over CUDA's": True,
        f"{speed.LONG_BOTH}: Triton's rate over CUDA's": None,
    }


def test_kernels_that_did_not_run_meet_no_target():
    checks = speed.targets([])
    assert [check.met for check in checks[:3]] == [False] * 3
    assert all(check.found in ("did not run, or is wrong", "not measured") for check in checks)


def test_the_measured_table_is_rewritten(tmp_path):
    source = backends.MEASURED.read_text()
    faster, slower = {"cuda": 2.0, "triton": 1.0}, {"cuda": 1.0, "triton": 2.0}
    measured = {
        ("9.0", "torch.bfloat16", "D>64"): slower,
        ("9.0", "torch.float32", "P<=64"): faster,
        ("9.0", "torch.float16", "D<=64"): {"triton": 1.0},
    }
    written = backends.rewritten(source, measured)

    def entries(text):
        namespace = {}
        exec(text, namespace)
        return namespace["FASTER_IN_TRITON"]

    ours = {("9.0", torch.float32, "P<=64")}
    assert entries(written) == ours
    another = backends.rewritten(written, {("8.0", "torch.bfloat16", "D>64"): faster})
    assert entries(another) == ours | {("8.0", torch.bfloat16, "D>64")}
    assert entries(backends.rewritten(another, {("9.0", "torch.float32", "P<=64"): slower})) == {
        ("8.0", torch.bfloat16, "D>64")
    }
    (tmp_path / "measured.py").write_text(another)
    formatted = subprocess.run([sys.executable, "-m", "ruff", "format", "--check", tmp_path / "measured.py"])
    assert formatted.returncode == 0


def test_every_class_of_sizes_of_the_measured_table_has_a_problem():
    found = {(op, size, problem.dtype) for op, size, problem in backends.problems()}
    classes = {"D<=64", "D>64", "P<=64", "P>64", "edge D<=64", "edge D>64"}
    assert len(found) == 18 and {size for _, size, _ in found} == classes
    assert len(backends.pieces()) == 36 and {"D>64 bf16 triton", "edge D>64 fp16 cuda"} <= backends.pieces().keys()
