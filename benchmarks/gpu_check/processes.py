"""Runs commands in parallel until a deadline. Each has its own log."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import torch

from benchmarks.environment import ROOT

GPU_IS_LOST = 70
"""Exit code of a process that can no longer use the GPU, so that a new process does the rest of its work"""
DIED = (1, GPU_IS_LOST)
"""Exit codes after which a process is restarted. Python exits with 1 after an exception or a timeout (record.py)."""
MOST_STARTS = 12
LAST_WORDS = 10
"""Seconds that a killed process may take to end"""


def start(command: list[str], log: Path, **environment: str) -> subprocess.Popen:
    """Starts a command in the root of the repository. Its process group lets it be killed with its children.

    It stays in the session of this process, so it ends as well if the session is killed.
    """
    with log.open("a") as file:
        return subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, "PYTHONUNBUFFERED": "1", **environment},
            stdout=file,
            stderr=subprocess.STDOUT,
            process_group=0,
        )


def finish(process: subprocess.Popen, deadline: float) -> int:
    """Waits for a process and returns its exit code. Kills it when time.monotonic() reaches the deadline."""
    try:
        return process.wait(max(deadline - time.monotonic(), 0))
    except subprocess.TimeoutExpired:
        kill_group(process)
    try:
        return process.wait(LAST_WORDS)
    except subprocess.TimeoutExpired:  # it is stuck in the driver, which no signal ends
        return -signal.SIGKILL


def kill_group(process: subprocess.Popen) -> None:
    """Kills a process that ``start`` started, and its children. It may have ended already."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def run_to_end(
    commands: list[list[str]], logs: Path, deadline: float, show: Callable[[], None], **environment: str
) -> int:
    """Runs commands in parallel, restarts those that died, and returns how many exited with 0 in the end.

    A restarted command has to find out by itself what it has already done (record.py). logs: a folder, in which command
    i writes i.log. show: is called every second.
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
            kill_group(process)  # the children of a dead process would go on beside the next one
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
    """Ends this process if its GPU calls fail, as they all do after an illegal access. A new process then continues."""
    if not torch.cuda.is_available() or not torch.cuda.is_initialized():
        return
    try:
        torch.cuda.synchronize()
    except RuntimeError as error:
        print(f"leaving: {error}", file=sys.stderr, flush=True)
        os._exit(GPU_IS_LOST)
