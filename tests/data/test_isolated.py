"""An item that fails costs itself only, and its cause is told."""

import multiprocessing
import os
import signal
import time

from stgt.data.errors import VideoError
from stgt.data.isolated import Failure, call_each


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
    items = ["a", "broken", "crash", "b", "odd", "endless", "c", "caf\udce9", *"defgh"]
    results = list(call_each(work, items, timeout=10.0, jobs=3))
    expected = {
        "broken": "cut short",
        "crash": "the decoder crashed with exit code -11",
        "odd": "KeyError: 'frames'",
        "endless": "decoding did not end within 10 s",
    }
    for item, result in zip(items, results, strict=True):
        assert result == (Failure(expected[item]) if item in expected else (item.upper(), True))
    assert multiprocessing.active_children() == []


def test_results_that_nobody_takes_any_more_end_their_processes():
    results = call_each(work, ["a", *["endless"] * 9], timeout=3600.0, jobs=2)
    assert next(results) == ("A", True)
    results.close()
    assert multiprocessing.active_children() == []


def test_nothing_to_do():
    assert list(call_each(work, [], timeout=1.0, jobs=4)) == []
