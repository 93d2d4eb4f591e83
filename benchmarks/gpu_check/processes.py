"""Commands that run beside each other until a deadline, with a log each."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks.environment import ROOT

GPU_IS_LOST = 70
"""Exit code of a process that leaves the rest of its work to another"""
DIED = (1, GPU_IS_LOST)
"""1 is Python's, for exceptions and for record.py's limit of time"""
MOST_STARTS = 12


def start(command: list[str], log: Path, **environment: str) -> subprocess.Popen:
    """A command at the root of the repository, in a session of its own, so that it ends with all that it started."""
    with log.open("a") as file:
        return subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, "PYTHONUNBUFFERED": "1", **environment},
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def finish(process: subprocess.Popen, deadline: float) -> int:
    """Its exit code; when time.monotonic() is past the deadline it is ended."""
    try:
        return process.wait(max(deadline - time.monotonic(), 0))
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        return process.wait()


def run_to_end(
    commands: list[list[str]], logs: Path, deadline: float, show: Callable[[], None], **environment: str
) -> int:
    """Runs commands beside each other, starts again those that died, and says how many exited with 0 in the end.

    They have to know themselves what they did before (record.py). logs: a folder; command i logs to i.log. show: called
    every second.
    """

    def begin(i: int) -> subprocess.Popen:
        starts[i] += 1
        return start(commands[i], logs / f"{i}.log", **environment)

    starts = [0] * len(commands)
    running = {i: begin(i) for i in range(len(commands))}
    ended = 0
    while running and time.monotonic() < deadline:
        for i, process in list(running.items()):
            if process.poll() is None:
                continue
            del running[i]
            if process.returncode == 0:
                ended += 1
            elif (process.returncode in DIED or process.returncode < 0) and starts[i] < MOST_STARTS:
                running[i] = begin(i)
        time.sleep(min(1, max(deadline - time.monotonic(), 0)))
        show()
    for process in running.values():
        finish(process, deadline)
    return ended


def leave_if_the_gpu_is_lost() -> None:
    """After an illegal access every call of a process fails: ends this one, for another to go on."""
    if not torch.cuda.is_available() or not torch.cuda.is_initialized():
        return
    try:
        torch.cuda.synchronize()
    except RuntimeError as error:
        print(f"leaving: {error}", file=sys.stderr, flush=True)
        os._exit(GPU_IS_LOST)
