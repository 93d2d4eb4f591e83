"""The error for files that cannot be read, and the checks before a file is opened."""

from __future__ import annotations

import stat
from pathlib import Path


class VideoError(RuntimeError):
    """A video or image file that cannot be read; the message begins with the file's path and ends with the cause."""


class StoreError(VideoError):
    """A store of shards that does not answer. It says nothing about the video that was asked for."""


MAX_BYTES = 16 * 2**30
"""The most memory that the frames of one call may take. A film would fill the memory, and end the process"""


def require_memory(path: str | Path, frames: int, height: int, width: int) -> None:
    """Raise VideoError if so many RGB frames of this size take more than MAX_BYTES."""
    if (size := frames * height * width * 3) > MAX_BYTES:
        raise VideoError(
            f"{path}: {frames} frames of {width} × {height} pixels take {size / 2**30:.0f} GiB of memory, expected at "
            f"most {MAX_BYTES / 2**30:.0f}: ask for fewer frames, or for a part of the video"
        )


def require_file(path: str | Path) -> None:
    """Raise VideoError unless `path` is a regular file that is not empty, or a link to one.

    Nothing is opened: opening a FIFO that nobody writes to would block for ever, and some devices never end.
    """
    try:
        found = Path(path).stat()
    except (FileNotFoundError, NotADirectoryError):
        raise VideoError(f"{path}: no such file") from None
    except (OSError, ValueError) as error:  # ValueError: a null character in the name
        raise VideoError(f"{path}: {getattr(error, 'strerror', None) or error}") from error
    if stat.S_ISDIR(found.st_mode):
        raise VideoError(f"{path}: no such file, there is a folder of this name")
    if not stat.S_ISREG(found.st_mode):
        raise VideoError(f"{path}: not a regular file, expected neither a FIFO, a socket nor a device")
    if found.st_size == 0:
        raise VideoError(f"{path}: the file is empty")
