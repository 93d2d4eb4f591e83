"""A record of the pieces of work of processes that may die. Results are on disk at once, so a new process continues."""

import faulthandler
import json
import os
from pathlib import Path
from typing import Any

RECORDS = "records.jsonl"
"""The name of the file in the folder of the results"""
STDERR = os.dup(2)  # a copy, since pytest captures file descriptor 2


class Record:
    """A file of JSON lines [part, piece, result], to which all processes that share the work of a part append.

    The result of a piece is null until the piece ends. It stays null if the process dies during the piece.
    """

    def __init__(self, path: Path, part: str) -> None:
        self.path, self.part = path, part

    def read(self) -> dict[str, Any]:
        """Every piece of this part that has begun, with its result."""
        return {piece: result for part, piece, result in map(json.loads, self._lines()) if part == self.part}

    def clear(self) -> None:
        """Removes what an earlier run wrote about this part."""
        kept = [line for line in self._lines() if json.loads(line)[0] != self.part]
        self.path.write_text("".join(line + "\n" for line in kept))

    def begin(self, piece: str, seconds: float) -> None:
        """Records that a piece begins. If it does not end in time, this process exits, even if it waits for a GPU."""
        self.add(piece, None)
        faulthandler.dump_traceback_later(seconds, exit=True, file=STDERR)

    def end(self, piece: str, result: Any) -> None:
        faulthandler.cancel_dump_traceback_later()
        self.add(piece, result)

    def add(self, piece: str, result: Any) -> None:
        line = json.dumps([self.part, piece, result]) + "\n"
        file = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.write(file, line.encode())  # one write for the whole line, so that lines of parallel processes do not mix
        os.close(file)

    def _lines(self) -> list[str]:
        return self.path.read_text().splitlines() if self.path.exists() else []
