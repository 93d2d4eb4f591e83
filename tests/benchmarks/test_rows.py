"""Result rows, the files that hold them, and tables of them."""

import csv

import pytest
from helpers.benchmark_rows import results, row

from benchmarks.rows import Results, Row
from benchmarks.tables import case_table, duration, missing_list
from benchmarks.timing import Timing

TIMING = Timing(0.5, 0.4, 0.6, 7)


def test_rates_count_the_work_of_the_problem():
    timed = Row.timed("ours", "fp32", {"T": 8}, TIMING, flops=1e12, nbytes=2e9, limit=0.1, edge_density=0.8)
    assert (timed.median, timed.low, timed.high, timed.rounds) == (0.5, 0.4, 0.6, 7)
    assert (timed.tflops, timed.gbytes, timed.limit_share, timed.edge_density) == (2.0, 4.0, 0.2, 0.8)
    assert Row.timed("ours", "fp32", {}, TIMING).tflops is None


def test_rows_are_read_back_from_their_file_and_the_csv_holds_their_environment(tmp_path):
    rows = [row(details={"clips/s": 3.0}, parts={"losses": 0.1}), row("gone", median=None, missing="out of memory")]
    path = tmp_path / "cpu" / "frames.json"
    results(*rows).save(path)
    assert Results.load(path) == results(*rows)
    with path.with_suffix(".csv").open() as file:
        lines = list(csv.DictReader(file))
    assert [line["provider"] for line in lines] == ["eager dense", "gone"]
    assert lines[0]["environment.commit"] == "abc1234" and lines[0]["shape.T"] == "8" and lines[0]["median"] == "1.0"
    assert lines[0]["details.clips/s"] == "3.0" and lines[1]["missing"] == "out of memory"


@pytest.mark.parametrize("content", ["{}", "[", '{"environment": {}, "rows": [{"time": 1}]}'])
def test_other_files_are_refused_with_an_error_that_names_them(tmp_path, content):
    path = tmp_path / "frames.json"
    path.write_text(content)
    with pytest.raises(ValueError, match="frames.json is not a file of benchmark results"):
        Results.load(path)


def test_a_table_leaves_out_empty_columns_and_lists_the_providers_that_are_missing():
    rows = [row(tflops=1.5), row("SDPA", bound=True), row("gone", median=None, missing="no GPU")]
    table = case_table(rows)
    assert "TFLOP/s" in table and "GB/s" not in table and "1 GiB" in table and "gone" not in table
    assert "SDPA (a bound: computes less)" in table
    assert missing_list([*rows, *rows]) == "- gone: no GPU"
    assert {len(line) for line in table.splitlines()} == {len(table.splitlines()[0])}


@pytest.mark.parametrize(
    "seconds, text", [(2.5, "2.5 s"), (0.0123, "12.3 ms"), (4.56e-5, "45.6 µs"), (1e-8, "0.01 µs"), (345, "345 s")]
)
def test_durations_have_three_digits(seconds, text):
    assert duration(seconds) == text
