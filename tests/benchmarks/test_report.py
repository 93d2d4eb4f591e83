"""The report and the README's table come from result files alone; counts set the exit code; the command runs."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.benchmark_rows import ABOUT, results, row

from benchmarks import compare, counted, report
from benchmarks.inputs import Problem
from benchmarks.rows import Results

README = f"# A title\n{report.BEGIN}\nold\n{report.END}\nthe rest\n"


def write_results(folder: Path) -> None:
    forward = dict(question="attention_forward", case=str(Problem()))
    providers = [row(**forward), row("stgt_kernels cpu", median=0.05, tflops=0.1, **forward)]
    missing = row("stgt_kernels cuda", median=None, missing="no GPU", **forward)
    results(*providers, missing).save(folder / "cpu" / "attention_forward.json")
    curve = [
        row(provider, case=f"T={T}", median=seconds * T, shape={"B": 1, "T": T})
        for provider, seconds in (("eager dense", 1.0), ("stgt_kernels cpu", 0.1))
        for T in (1, 8, 64)
    ]
    dead = row(case="T=128", median=None, missing="out of memory", shape={"B": 1, "T": 128})
    results(*curve, dead).save(folder / "cpu" / "frames.json")
    density = [
        row(
            "stgt_kernels cpu",
            case=f"{kind} tokens, h={h}",
            shape={"threshold": h},
            edge_density=0.9 - h,
            live_tiles=1.0,
        )
        for kind, h in (("real", 0.0), ("real", 0.5), ("noise", 0.5))
    ]
    results(*density).save(folder / "cpu" / "density.json")
    step = [
        row(variant, case=f"ViT-B T=8 fp32, {setting}", shape={"B": 2}, parts={"vision tower": 0.7, "losses": 0.3})
        for variant in ("released model", "stgt_kernels")
        for setting in ("tower in the loop", "cached features")
    ]
    results(*step).save(folder / "cpu" / "training_step.json")


def test_the_report_and_the_readme_are_generated_from_the_files(tmp_path):
    write_results(tmp_path / "results")
    (tmp_path / "README.md").write_text(README)
    paths = ["--results", "results", "--report", "REPORT.md", "--readme", "README.md"]
    paths = [path if path.startswith("--") else str(tmp_path / path) for path in paths]
    assert report.main(paths) == 0

    written = (tmp_path / "REPORT.md").read_text()
    for text in (
        "hardware a CPU",
        "commit abc1234",
        "date 2026-01-01",
        "## Attention forward",
        "stgt_kernels cuda: no GPU",
    ):
        assert text in written
    assert "| 50 ms" in written and "vision tower 70%, losses 30%" in written
    for figure in ("frames", "density", "training_step"):
        assert f"](results/cpu/{figure}.png)" in written and (tmp_path / "results/cpu" / f"{figure}.png").stat().st_size

    readme = (tmp_path / "README.md").read_text()
    assert readme.startswith("# A title\n") and readme.endswith("\nthe rest\n") and "old" not in readme
    assert "](results/cpu/frames.png)" in readme and "commit abc1234" in readme
    table = [[cell.strip() for cell in line.strip("|").split("|")] for line in readme.splitlines() if "|" in line]
    assert table[0] == ["", "dtype", "stgt_kernels", "eager dense", "FlexAttention", "faster than eager dense"]
    assert table[2:] == [["attention forward", "fp32", "50 ms", "1 s", "-", "20.0x"]]
    assert report.main(paths) == 0 and (tmp_path / "README.md").read_text() == readme


def test_the_readme_prefers_the_results_of_a_gpu(tmp_path):
    write_results(tmp_path / "results")
    about = {name: value for name, value in ABOUT.items() if name != "threads"} | {"hardware": "NVIDIA H200"}
    paper = str(Problem(B=20, dtype="bf16"))
    rows = [row("stgt_kernels cuda", "attention_forward", paper, median=3e-4)]
    Results(about, rows).save(tmp_path / "results" / "h200" / "attention_forward.json")
    (tmp_path / "README.md").write_text(README)
    options = {"results": "results", "report": "REPORT.md", "readme": "README.md"}
    assert report.main([word for name, path in options.items() for word in (f"--{name}", str(tmp_path / path))]) == 0
    readme = (tmp_path / "README.md").read_text()
    assert "NVIDIA H200" in readme and "a CPU" not in readme and "300 µs" in readme


def test_nothing_is_written_without_results_or_markers(tmp_path):
    (tmp_path / "results").mkdir()
    assert report.main(["--results", str(tmp_path / "results")]) == 1
    readme = tmp_path / "README.md"
    readme.write_text("# No markers\n")
    with pytest.raises(ValueError, match="must have one part between"):
        report.write_section(readme, "text")
    assert readme.read_text() == "# No markers\n"


def test_the_readme_has_the_markers():
    assert (Path(report.ROOT) / "README.md").read_text().count(report.BEGIN) == 1


@pytest.mark.parametrize("more, code", [(0, 0), (1, 1), (-1, 0)])
def test_a_higher_count_fails(tmp_path, monkeypatch, capsys, more, code):
    file = tmp_path / "counted.json"
    monkeypatch.setattr(counted, "count", lambda: {"op": {"FLOPs": 100, "launches": 2}})
    assert counted.main(["--update", "--file", str(file)]) == 0
    monkeypatch.setattr(counted, "count", lambda: {"op": {"FLOPs": 100, "launches": 2 + more}})
    assert counted.main(["--file", str(file)]) == code
    assert ("op: 3 launches, there were 2" in capsys.readouterr().out) == bool(code)


def test_counts_are_kept_for_every_counted_function():
    kept = json.loads(counted.COUNTED.read_text())
    forward = counted.PROBLEM.attention_flops(False)
    assert kept["graph_attention, forward"]["FLOPs"] == forward
    # There are 2 products forward and 5 backward, one of which computes the scores again.
    assert kept["graph_attention, forward and backward"]["FLOPs"] == 3.5 * forward
    assert kept["spatio_temporal_graph"]["FLOPs"] == counted.PROBLEM.graph_flops()


def test_the_command_times_saves_and_compares(tmp_path):
    command = [sys.executable, "-m", "benchmarks", "graph_construction", "--quick", "--device", "cpu", "--threads", "1"]
    # The variable tells pytest-benchmark that several processes test at the same time, and then it times nothing.
    alone = {name: value for name, value in os.environ.items() if name != "PYTEST_XDIST_WORKER"}
    run = subprocess.run([*command, "--out", tmp_path], cwd=report.ROOT, capture_output=True, text=True, env=alone)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "2 passed" in run.stdout and "stgt_kernels cuda: it runs on CUDA tensors" in run.stdout
    path = tmp_path / "cpu" / "graph_construction.json"
    kept = Results.load(path)
    assert {"hardware", "torch", "commit", "date", "load", "limits"} <= kept.environment.keys()
    timed = [row for row in kept.rows if row.median]
    assert {row.provider for row in timed} == {"eager dense", "PyTorch over the band", "stgt_kernels cpu"}
    assert all(row.rounds >= 3 and row.low <= row.median <= row.high and row.limit_share > 0 for row in timed)
    assert compare.main([str(path), str(path)]) == 0
