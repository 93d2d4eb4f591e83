"""An item that fails does no harm to the others, and its cause is told."""

import multiprocessing
import os
import signal
import time

from stgt.data.errors import VideoError
from stgt.data.isolated import Failure, Worker, call_each


def work(item):
    if item == "broken":
        raise VideoError("broken: cut short")
    if item == "odd":
        raise KeyError("frames")
    if item == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    if item == "endless":
        time.sleep(3600)
    return item.upper(), os.getpid() != os.getppid()


def test_every_item_gets_its_own_result():
    items = ["a", "broken", "crash", "b", "odd", "c", "caf\udce9", *"defgh"]
    results = list(call_each(work, items, timeout=300.0, jobs=3))
    expected = {
        "broken": "cut short",
        "crash": "the decoder crashed with exit code -11",
        "odd": "KeyError: 'frames'",
    }
    for item, result in zip(items, results, strict=True):
        assert result == (Failure(expected[item]) if item in expected else (item.upper(), True))
    assert multiprocessing.active_children() == []


def test_an_item_that_takes_too_long_is_given_up():
    results = list(call_each(work, ["endless"] * 3, timeout=0.5, jobs=2))
    assert results == [Failure("decoding did not end within 0.5 s")] * 3
    assert multiprocessing.active_children() == []


def test_the_processes_end_when_nobody_takes_the_results():
    results = call_each(work, ["a", *["endless"] * 9], timeout=3600.0, jobs=2)
    assert next(results) == ("A", True)
    results.close()
    assert multiprocessing.active_children() == []


class EndsWhatReadsIt:
    """A process that unpickles this ends at once."""

    def __reduce__(self):
        return os._exit, (3,)


def test_a_process_that_dies_as_it_starts_is_a_failure_of_the_item():
    results = list(call_each(EndsWhatReadsIt(), ["a", "b"], timeout=60.0, jobs=1))
    assert results == [Failure("the decoder crashed with exit code 3")] * 2
    assert multiprocessing.active_children() == []


def test_a_process_that_dies_before_it_has_the_item_is_a_failure_of_the_item(monkeypatch):
    worker = Worker(work, 60.0)
    assert worker.call("a") == ("A", True)
    monkeypatch.setattr(worker._process, "is_alive", lambda: True)  # it was, when it was asked
    worker._process.kill()
    worker._process.join()
    assert worker.call("b") == Failure("the decoder crashed with exit code -9")
    assert worker.call("c") == ("C", True)  # by another process
    worker.stop()
    assert multiprocessing.active_children() == []


def test_a_process_that_died_while_it_waited_is_replaced():
    worker = Worker(work, 60.0)
    assert worker.call("a") == ("A", True)
    worker._process.kill()
    worker._process.join()
    assert worker.call("b") == ("B", True)
    worker.stop()


def test_without_items_there_are_no_results():
    assert list(call_each(work, [], timeout=1.0, jobs=4)) == []
