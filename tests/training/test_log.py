"""The log of a run that goes on keeps the records of the steps that count, however long it is."""

import json

import pytest

from stgt.training import log
from stgt.training.log import RunLog, read_log


class Nowhere:
    def write(self, values, step): ...

    def close(self): ...


def line(step, **values):
    return json.dumps({"step": step, **(values or {"loss": 0.5})}) + "\n"


def go_on(run, step, **options):
    """The lines of the log that stay in front of the record of the next step."""
    opened = RunLog(run, step, 10**6, Nowhere(), **options)
    opened.lines.write({"step": step + 1})
    opened.close()
    *kept, last = (run / "log.jsonl").read_text().splitlines(keepends=True)
    assert last == json.dumps({"step": step + 1}) + "\n"
    return "".join(kept)


def test_a_run_that_goes_on_reads_only_the_lost_end_of_its_log(tmp_path, monkeypatch):
    # A log of 10 million records took more than 10 GB and an hour when all of them were read and written again.
    lines = [line(step) for step in range(1, 5001)]
    (tmp_path / "log.jsonl").write_text("".join(lines))
    read, original = [], log._record
    monkeypatch.setattr(log, "_record", lambda text: read.append(text) or original(text))
    assert go_on(tmp_path, 4990) == "".join(lines[:4990])
    assert len(read) == 11  # ten lost records, and the last one that is kept


@pytest.mark.parametrize("unmeasured", [False, True])
def test_records_of_lost_steps_and_damaged_lines_behind_them_are_removed(unmeasured, tmp_path):
    kept = line(2) + "half a rec\n" + line(4) + line(4, val={"mean": 1.0}) * (not unmeasured)
    lost = "[1]\n" + line(6) + "\n" + line(6, val={"mean": 2.0}) + '{"step": 8, "lo'
    measured = line(4, val={"mean": 1.0}) * unmeasured
    (tmp_path / "log.jsonl").write_text(kept + measured + lost)
    assert go_on(tmp_path, 4, unmeasured=unmeasured) == kept
    assert [record["step"] for record in read_log(tmp_path)] == [2, 4, *[4] * (not unmeasured), 5]


@pytest.mark.parametrize(
    ("before", "after"), [(None, ""), ("", ""), (line(3), ""), (line(1).rstrip(), line(1)), ("\0\0\n", "")]
)
def test_a_log_may_be_absent_empty_lost_or_without_a_last_line_feed(before, after, tmp_path):
    if before is not None:
        (tmp_path / "log.jsonl").write_text(before)
    assert go_on(tmp_path, 2) == after
