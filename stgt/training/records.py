"""Files to which a run appends whole records: its log in JSON lines, and TensorBoard's events."""

from __future__ import annotations

import json
import logging
import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path

logger = logging.getLogger(__name__)


class Records:
    """A file that records are appended to. A record that cannot be written is lost as a whole; one warning says so."""

    def __init__(self, path: Path) -> None:
        self.path, self._warned = path, False

    def append(self, record: bytes) -> None:
        try:
            with open(self.path, "ab", buffering=0) as file:
                size = file.tell()
                try:
                    while record:
                        record = record[file.write(record) :]
                except OSError:
                    file.truncate(size)
                    raise
        except OSError as error:
            if not self._warned:
                logger.warning("%s: could not be written (%s); the run goes on without it", self.path, error.strerror)
            self._warned = True


class JsonLines(Records):
    """A file with one JSON object on each line."""

    def write(self, values: Mapping[str, object]) -> None:
        self.append((json.dumps(values) + "\n").encode())


class Scalars(Records):
    """Curves for TensorBoard, in a new file in `folder`. Points of older files there from `step` on are hidden."""

    def __init__(self, folder: Path, step: int) -> None:
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog

        folder.mkdir(parents=True, exist_ok=True)
        super().__init__(folder / f"events.out.tfevents.{time.time():.0f}.{socket.gethostname()}.{os.getpid()}")
        self._event(Event(file_version="brain.Event:2"))
        self._event(Event(step=step, session_log=SessionLog(status=SessionLog.START)))

    def write(self, values: Mapping[str, float], step: int) -> None:
        """Add a point at `step` to the curve of each name."""
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        points = [Summary.Value(tag=name, simple_value=float(value)) for name, value in values.items()]
        self._event(Event(step=step, summary=Summary(value=points)))

    def close(self) -> None:
        """Nothing is left to write: each point is in the file already."""

    def _event(self, event) -> None:  # noqa: ANN001 (a message of a module that is imported late)
        from io import BytesIO

        from tensorboard.summary.writer.record_writer import RecordWriter

        event.wall_time = time.time()
        record = BytesIO()
        RecordWriter(record).write(event.SerializeToString())
        self.append(record.getvalue())
