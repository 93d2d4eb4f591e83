"""Commands that run beside each other until a deadline, with a log each."""

import os
import signal
import subprocess
import time
from pathlib import Path

from benchmarks.environment import ROOT


def start(command: list[str], log: Path, **environment: str) -> subprocess.Popen:
    """A command at the root of the repository, in a session of its own, so that it ends with all that it started."""
    with log.open("w") as file:
        return subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, **environment},
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
