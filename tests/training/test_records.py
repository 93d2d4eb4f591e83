"""Files of records hold only whole records, and a full disk gives a warning."""

import itertools
import resource
import time
from contextlib import contextmanager

from helpers import standin
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from stgt import checkpoint as ckpt
from stgt.training.log import read_log, shown
from stgt.training.records import JsonLines, Scalars


@contextmanager
def files_of_at_most(size):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_record_that_does_not_fit_is_lost_as_a_whole_with_one_warning(tmp_path, caplog):
    log = JsonLines(tmp_path / "log.jsonl")
    log.write({"step": 1})
    with files_of_at_most(16):
        log.write({"step": 2, "loss": 1.5})
        log.write({"step": 3, "loss": 1.5})
    log.write({"step": 4})
    assert (tmp_path / "log.jsonl").read_text() == '{"step": 1}\n{"step": 4}\n'
    assert caplog.text.count(f"{tmp_path / 'log.jsonl'}: could not be written (File too large)") == 1


def test_tensorboard_reads_the_curves_and_hides_those_of_lost_steps(tmp_path, monkeypatch):
    monkeypatch.setattr(time, "time", map(float, itertools.count(10**9)).__next__)  # each file begins in a later second
    first = Scalars(tmp_path, 1)
    for step in (2, 4, 6):
        first.write({"train/loss": step / 2, "train/lr": 0.1}, step)
    second = Scalars(tmp_path, 5)
    second.write({"train/loss": 10.0}, 6)
    events = EventAccumulator(str(tmp_path)).Reload()
    assert events.Tags()["scalars"] == ["train/loss", "train/lr"]
    assert [(event.step, event.value) for event in events.Scalars("train/loss")] == [(2, 1.0), (4, 2.0), (6, 10.0)]


def test_a_full_disk_under_log_and_tensorboard_does_not_stop_a_run(tmp_path, caplog, monkeypatch):
    for kind in (JsonLines, Scalars):
        write = kind.write

        def limited(self, *values, write=write):
            with files_of_at_most(200):
                write(self, *values)

        monkeypatch.setattr(kind, "write", limited)
    standin.trainer(standin.config(tmp_path)).fit()
    assert ckpt.read_state(ckpt.latest_checkpoint(tmp_path))["step"] == 20
    assert read_log(tmp_path) == []
    assert f"{tmp_path / 'log.jsonl'}: could not be written" in caplog.text
    assert f"{tmp_path / 'tensorboard'}" in caplog.text and caplog.text.count("could not be written") == 2


def test_the_progress_of_a_run_names_the_unit_after_each_quantity():
    record = {"step": 3, "vtm": 0.5, "loss": 2.25, "lr": 0.1, "edges_per_token": 144.2, "clips_per_s": 45.76}
    assert shown(record | {"memory_gib": 1.642}) == "loss 2.25 vtm 0.5, 144 edges, 45.8 clips/s, 1.64 GiB"
