"""The comparison of two runs: which differences are regressions, and the exit code."""

import json
import subprocess

import pytest
from helpers.benchmark_rows import ABOUT, results, row

from benchmarks import compare
from benchmarks.rows import Results


def exit_code(tmp_path, before, after):
    paths = [tmp_path / "before.json", tmp_path / "after.json"]
    for path, rows in zip(paths, (before, after), strict=True):
        (rows if isinstance(rows, Results) else results(rows)).save(path)
    return compare.main([str(path) for path in paths])


def test_equal_results_are_no_regression(tmp_path, capsys):
    assert exit_code(tmp_path, row(), row()) == 0
    assert "1 rows, 0 regressions" in capsys.readouterr().out


@pytest.mark.parametrize("median, scatter, code", [(1.04, 0.01, 0), (1.2, 0.01, 1), (1.2, 0.15, 0), (0.5, 0.01, 0)])
def test_a_slower_result_is_a_regression_only_beyond_the_noise(tmp_path, median, scatter, code):
    assert exit_code(tmp_path, row(scatter=scatter), row(median=median, scatter=scatter)) == code


@pytest.mark.parametrize("memory, code", [(2**30 + 2**20, 0), (2**31, 1), (2**29, 0), (None, 0)])
def test_more_memory_is_a_regression(tmp_path, memory, code):
    assert exit_code(tmp_path, row(), row(peak_memory=memory)) == code


def test_one_regression_among_many_is_named(tmp_path, capsys):
    before, after = results(row("a"), row("b")), results(row("b", median=2.0), row("a", median=0.5), row("c"))
    assert exit_code(tmp_path, before, after) == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line.rstrip(" |").endswith("SLOWER") for line in lines if "| b " in line] == [True]
    assert [line.rstrip(" |").endswith("faster") for line in lines if "| a " in line] == [True]


def test_rows_that_one_side_lacks_or_did_not_time_are_not_compared(tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        exit_code(tmp_path, results(row("a"), row("b")), results(row("c"), row("b", median=None, missing="no GPU")))
    assert stopped.value.code == 2 and "no row in common" in capsys.readouterr().err


def test_different_hardware_is_reported(tmp_path, capsys):
    assert exit_code(tmp_path, row(), Results(ABOUT | {"hardware": "a faster CPU"}, [row(median=0.1)])) == 0
    assert "The hardware differs" in capsys.readouterr().out


def test_results_are_read_from_a_file_a_folder_and_a_commit(tmp_path, monkeypatch):
    monkeypatch.setattr(compare, "ROOT", tmp_path)
    folder = tmp_path / "benchmarks" / "results" / "cpu"
    results(row()).save(folder / "frames.json")
    (folder.parent / "counted.json").write_text(json.dumps({"something": "else"}))
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    for command in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "results"]):
        subprocess.run([*git, *command], check=True)
    assert compare.read("HEAD").rows == compare.read(str(folder)).rows == {("frames", "T=8", "eager dense"): row()}
    results(row(median=2.0)).save(folder / "frames.json")
    assert compare.main(["HEAD", str(folder)]) == 1
    with pytest.raises(ValueError, match="no-such-commit"):
        compare.read("no-such-commit")
