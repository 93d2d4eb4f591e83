"""A record of the pieces of work of processes that may die. Results are on disk at once, so a new process continues."""

import faulthandler
import json
import os
from pathlib import Path
from typing import Any

STDERR = os.dup(2)  # a copy, since pytest captures file descriptor 2


class Record:
    """A file of JSON lines [piece, result], to which all processes that share the work append.

    The result of a piece is null until the piece ends. It stays null if the process dies during the piece.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> dict[str, Any]:
        """Every piece that has begun, with its result."""
        lines = self.path.read_text().splitlines() if self.path.exists() else []
        return dict(json.loads(line) for line in lines)

    def begin(self, piece: str, seconds: float) -> None:
        """Records that a piece begins. If it does not end in time, this process exits, even if it waits for a GPU."""
        self.add(piece, None)
        faulthandler.dump_traceback_later(seconds, exit=True, file=STDERR)

    def end(self, piece: str, result: Any) -> None:
        faulthandler.cancel_dump_traceback_later()
        self.add(piece, result)

    def add(self, piece: str, result: Any) -> None:
        line = json.dumps([piece, result]) + "\n"
        file = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.write(file, line.encode())  # one write for the whole line, so that lines of parallel processes do not mix
        os.close(file)
