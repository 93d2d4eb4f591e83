"""Pieces of work for processes that may die: what each piece gave is on disk at once, and the next process goes on."""

import faulthandler
import json
import os
from pathlib import Path
from typing import Any

STDERR = os.dup(2)  # pytest is going to take the other one


class Record:
    """A file of JSON lines, [piece, result], of all processes that share the work.

    A result is null from a piece's beginning to its end, and stays null if the process died of it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> dict[str, Any]:
        """Every piece that was begun, with its result."""
        lines = self.path.read_text().splitlines() if self.path.exists() else []
        return dict(json.loads(line) for line in lines)

    def begin(self, piece: str, seconds: float) -> None:
        """If the piece has not ended after so many seconds, this process does, even one that waits for a GPU."""
        self.add(piece, None)
        faulthandler.dump_traceback_later(seconds, exit=True, file=STDERR)

    def end(self, piece: str, result: Any) -> None:
        faulthandler.cancel_dump_traceback_later()
        self.add(piece, result)

    def add(self, piece: str, result: Any) -> None:
        line = json.dumps([piece, result]) + "\n"
        file = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.write(file, line.encode())  # all of it, or processes beside this one could write between
        os.close(file)
