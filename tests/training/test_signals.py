"""A command that a signal stops, or whose clips cannot be read any more, saves its work and ends."""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from helpers import standin
from helpers.runs import differing
from torch._dynamo.exc import TorchDynamoException

from stgt import checkpoint as ckpt
from stgt import signals
from stgt.data.loader import LoaderError
from stgt.signals import Interrupted, StoppedError, StopSignals, interruption_of
from stgt.training.log import RunLog, read_log
from stgt.training.records import Scalars

ROOT = Path(__file__).parents[2]


def send(number):
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_is_noted_and_the_handlers_are_restored(number):
    before = signal.getsignal(number)
    with StopSignals() as stop:
        assert stop.received == 0
        send(number)
        assert stop.received == number
    assert signal.getsignal(number) == before


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_can_interrupt_a_command_at_once(number):
    with pytest.raises(Interrupted) as caught, StopSignals(interrupt=True):
        send(number)
    assert caught.value.signum == number


def test_a_signal_whose_exception_was_lost_stops_what_comes_next():
    with StopSignals(interrupt=True):
        with suppress(Interrupted):  # as Python does it in a finaliser
            send(signal.SIGTERM)
        with StopSignals() as stop:
            assert stop.received == signal.SIGTERM


HELD = """
import os, signal, threading
from stgt import signals
signals.GRACE = 0.2
lock = threading.Lock()
with signals.StopSignals(interrupt=True):
    try:
        with lock:
            os.kill(os.getpid(), signal.SIGTERM)
    finally:
        lock.acquire()
        lock.acquire()  # as a thread pool waits for threads that a broken lock holds up
"""


def test_an_interrupted_command_that_hangs_is_ended():
    done = subprocess.run([sys.executable, "-c", HELD], env=os.environ | {"PYTHONPATH": str(ROOT)}, timeout=120)
    assert done.returncode == 128 + signal.SIGTERM


def test_an_error_that_an_interruption_caused_counts_as_the_interruption():
    error = None
    try:
        try:
            raise Interrupted(signal.SIGTERM)
        finally:
            raise RuntimeError("release unlocked lock")
    except RuntimeError as raised:
        error = raised
    assert interruption_of(error).signum == signal.SIGTERM
    assert interruption_of(RuntimeError()) is None


def test_signals_in_a_row_count_as_one():
    with StopSignals() as stop:
        for number in (signal.SIGINT, signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            send(number)
        assert stop.received == signal.SIGINT


def test_a_later_ctrl_c_interrupts_at_once_and_other_signals_do_not(monkeypatch):
    monkeypatch.setattr(signals, "PATIENCE", -1.0)
    with StopSignals() as stop:
        for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGHUP):
            send(number)
        with pytest.raises(Interrupted):
            send(signal.SIGINT)
        assert stop.received == signal.SIGTERM


def test_a_signal_that_a_run_has_handled_does_not_interrupt_later_code():
    with StopSignals(interrupt=True) as outer:
        with StopSignals():
            send(signal.SIGTERM)
        send(signal.SIGTERM)
        assert outer.received == signal.SIGTERM


def test_a_signal_that_is_ignored_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        with StopSignals(interrupt=True) as stop:
            send(signal.SIGHUP)
            assert stop.received == 0
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_run_that_is_stopped_before_its_first_step_makes_none(tmp_path):
    run = standin.trainer(standin.config(tmp_path))
    save = run._save
    run._save = lambda: (send(signal.SIGTERM), save())
    with pytest.raises(StoppedError, match="stopped after step 0 of 20"):
        run.fit()
    assert ckpt.read_state(ckpt.latest_checkpoint(tmp_path))["step"] == 0


def test_a_run_goes_on_without_its_terminal(tmp_path, monkeypatch):
    class Gone:
        def write(self, text=""):
            raise OSError(5, "Input/output error")

        flush = write

    monkeypatch.setattr(sys, "stderr", Gone())
    monkeypatch.setattr(sys, "stdout", Gone())
    log = RunLog(tmp_path, 0, 2, Scalars(tmp_path / "tensorboard", 1))
    log.add({"loss": torch.tensor(1.0)}, 5)
    log.record(1, torch.device("cpu"))
    log.validated(1, {"mean": 2.0}, 0.0)
    log.close()
    assert [record["step"] for record in read_log(tmp_path)] == [1, 1]


def test_a_run_whose_clips_cannot_be_read_any_more_ends_with_a_checkpoint(tmp_path):
    whole, cut = (standin.trainer(standin.config(tmp_path / name, accumulate=2)) for name in ("whole", "cut"))
    whole.fit()
    batches = cut._batches

    def failing():
        read = batches()
        for _ in range(7):  # in the middle of the fourth step
            yield next(read)
        raise LoaderError("a process that reads videos was killed")

    cut._batches = failing
    with pytest.raises(LoaderError, match="step 4 of 10 was not made, and the same command goes on from"):
        cut.fit()
    assert ckpt.read_state(ckpt.latest_checkpoint(tmp_path / "cut"))["step"] == 3
    standin.trainer(standin.config(tmp_path / "cut", accumulate=2)).fit()
    assert differing(tmp_path / "whole", tmp_path / "cut") == []
    assert [ckpt.read_state(ckpt.latest_checkpoint(tmp_path / name))["replaced"] for name in ("whole", "cut")] == [
        whole.replaced
    ] * 2


def test_a_signal_that_also_ends_the_compiler_of_a_step_leaves_a_checkpoint_of_the_step_before(tmp_path, monkeypatch):
    def compiled(model):
        def run(*inputs):
            if trainer.step == 2:
                send(signal.SIGTERM)
                torch.rand(3)
                raise TorchDynamoException("CppCompileError: the compiler was killed")
            return model(*inputs)

        return run

    with monkeypatch.context() as patch:
        patch.setattr(torch, "compile", compiled)
        trainer = standin.trainer(standin.config(tmp_path / "cut", compile=True))
        with pytest.raises(StoppedError, match="stopped while a step was compiled; step 3 of 20 was not made"):
            trainer.fit()
        patch.setattr(torch, "compile", lambda model: model)
        for name in ("whole", "cut"):
            standin.trainer(standin.config(tmp_path / name, compile=True)).fit()
    assert differing(tmp_path / "whole", tmp_path / "cut") == []


def test_a_step_that_cannot_be_compiled_is_an_error(tmp_path, monkeypatch):
    def failing(*_):
        raise TorchDynamoException("no compiler")

    monkeypatch.setattr(torch, "compile", lambda model: failing)
    with pytest.raises(TorchDynamoException, match="no compiler"):
        standin.trainer(standin.config(tmp_path, compile=True)).fit()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_command_ends_without_a_message_and_leaves_nothing_half_written(number, tmp_path):
    command = [sys.executable, "-m", "stgt", "data", "shapes", "--out", "shapes", "--train", "1500"]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        start_new_session=True,
    )
    while not list(tmp_path.glob("*/videos/*.mp4")):
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    os.killpg(process.pid, number)
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 128 + number and "Traceback" not in output
    assert list(tmp_path.iterdir()) == []
