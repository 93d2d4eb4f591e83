"""Decoding every video of an annotation once, where a file that never ends can be stopped.

decord waits for ever on some containers that promise more frames than they hold, and no thread or signal handler of the
same process can end that. Decoding each clip of a run in a process of its own would cost more than the decoding, so
files are checked once, before training, by a few long-lived processes that are killed and replaced when one is late.
What they find becomes a bad-list, which training reads.
"""

from __future__ import annotations

import json
import multiprocessing
import multiprocessing.connection
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tqdm import tqdm

from stgt.data.video import VideoError, decode_through
from stgt.files import errors_named, write_json, write_text
from stgt.ownership import owned
from stgt.structure import parse_json, shown
from stgt.terminal import printable

Verdict = tuple[str, str | None]  # a path and what is wrong with it

# Decoders start from a clean process: a fork would carry over locks of the threads that serve the other decoders.
_processes = multiprocessing.get_context("spawn")


def write_bad_list(
    videos: Sequence[str], root: str | Path, out: Path, *, timeout: float = 30.0, jobs: int = 1
) -> dict[str, str]:
    """Check distinct videos below `root`; writes and returns {video: what is wrong with it} of those that are broken.

    Verdicts are kept in OUT.partial while it goes, and a check that was interrupted goes on after the last of them.
    Raises OwnedError if another command is writing the same list.
    """
    with owned(out, beside=True):
        return _write_bad_list(videos, root, out, timeout, jobs)


def _write_bad_list(videos: Sequence[str], root: str | Path, out: Path, timeout: float, jobs: int) -> dict[str, str]:
    partial = out.with_name(f"{out.name}.partial")
    verdicts = _verdicts(partial, str(Path(root).resolve()))
    left = [video for video in videos if video not in verdicts]
    checked = check_videos([Path(root) / video for video in left], timeout=timeout, jobs=jobs)
    known = [str(Path(root).resolve()), *verdicts.items()]
    write_text(partial, "".join(f"{json.dumps(entry)}\n" for entry in known))
    with errors_named(partial), open(partial, "a", encoding="utf-8") as file:
        bar = tqdm(checked, initial=len(videos) - len(left), total=len(videos), unit="video")
        for video, (path, cause) in zip(left, bar, strict=True):
            verdicts[video] = cause
            file.write(json.dumps((video, cause)) + "\n")
            file.flush()
            if cause is not None:
                bar.write(printable(f"{path}: {cause}"))
    bad = {video: verdicts[video] for video in videos if verdicts[video] is not None}
    write_json(out, bad, indent=0)
    partial.unlink()
    return bad


def _verdicts(partial: Path, root: str) -> dict[str, str | None]:
    """What an interrupted check of the same folder has found; a line that was cut off is left out."""
    lines = partial.read_text("utf-8", errors="replace").split("\n")[:-1] if partial.exists() else []
    if not lines or lines[0] != json.dumps(root):
        return {}
    verdicts = {}
    for number, line in enumerate(lines[1:], start=2):
        entry = parse_json(line, f"{partial}: line {number}", list)
        if len(entry) != 2 or not isinstance(entry[0], str) or not isinstance(entry[1], str | None):
            raise ValueError(f"{partial}: line {number} is {shown(entry)}, expected a video and what is wrong with it")
        verdicts[entry[0]] = entry[1]
    return verdicts


def check_videos(paths: Sequence[str | Path], *, timeout: float = 30.0, jobs: int = 1) -> Iterator[Verdict]:
    """Decode every frame of every file; yields (path, None) or (path, what is wrong with it), in the order given.

    timeout: seconds that one file may take; `jobs` files are decoded at a time. Raises ValueError if either is not
    positive.
    """
    if not timeout > 0:
        raise ValueError(f"timeout is {timeout}, expected a positive number of seconds")
    if jobs < 1:
        raise ValueError(f"jobs is {jobs}, expected at least 1")
    return _check([str(path) for path in paths], timeout, jobs)


def _check(paths: list[str], timeout: float, jobs: int) -> Iterator[Verdict]:
    decoders = [_Decoder() for _ in range(min(jobs, len(paths)))]
    idle = list(decoders)

    def one(path: str) -> Verdict:
        decoder = idle.pop()
        try:
            return path, decoder.cause(path, timeout)
        finally:
            idle.append(decoder)

    try:
        with ThreadPoolExecutor(max(1, len(decoders))) as threads:
            for start in range(0, len(paths), 1000):  # a pending call takes a thousand times the memory of its path
                yield from threads.map(one, paths[start : start + 1000])
    finally:
        for decoder in decoders:
            decoder.stop()


class _Decoder:
    """A process that decodes the files it is sent; started when needed, killed when late."""

    def __init__(self) -> None:
        self._process = None

    def cause(self, path: str, timeout: float) -> str | None:
        if self._process is None:
            self._start()
        self._pipe.send(path)
        try:
            if self._pipe.poll(timeout):
                return self._pipe.recv()
            cause = f"decoding did not end within {timeout:g} s"
        except EOFError:
            self._process.join()
            cause = f"the decoder crashed with exit code {self._process.exitcode}"
        self.stop()
        return cause

    def _start(self) -> None:
        self._pipe, theirs = _processes.Pipe()
        self._process = _processes.Process(target=_serve, args=(theirs,), daemon=True)
        self._process.start()
        theirs.close()
        self._pipe.recv()  # the process is up: its start does not count against the first file

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._pipe.close()
            self._process = None


def _serve(pipe: multiprocessing.connection.Connection) -> None:
    pipe.send(None)
    while True:
        try:
            path = pipe.recv()
        except EOFError:
            return
        try:
            decode_through(path)
        except VideoError as error:
            pipe.send(str(error).removeprefix(f"{path}: "))
        else:
            pipe.send(None)
