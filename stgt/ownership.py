"""Locks that let only one command at a time write a folder, or one file of a folder that several commands fill.

The lock is `flock` on a small file that says which command holds it. It vanishes with its process, however that ends.
Commands that only read need no lock.
"""

from __future__ import annotations

import fcntl
import functools
import logging
import os
import shlex
import socket
import sys
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from stgt.files import collect_leftovers, errors_named
from stgt.rerun import end_if_rerun

logger = logging.getLogger(__name__)

LOCK = ".stgt.lock"
_held: set[int] = set()


class OwnedError(OSError):
    """A folder that another command is writing."""


@contextmanager
def owned(path: str | Path, *, beside: bool = False) -> Iterator[None]:
    """Hold the lock of the folder `path` during the block. The folder is made if needed, and leftovers are removed.

    beside: put the lock file next to `path`. This is for a file, or a folder that appears only when it is complete.
    Raises OwnedError, which names the process, machine and command of the owner, if another command holds the lock, and
    OSError if the lock file cannot be written. On a file system without locks a warning is logged, and a second command
    is not kept away.
    """
    end_if_rerun()
    path = Path(path)
    lock = _beside(path) if beside else path / LOCK
    with _locked(lock, path):
        collect_leftovers(lock.parent)
        yield


@contextmanager
def claimed(path: Path, *, wait: bool = False) -> Iterator[None]:
    """Hold the lock of the file `path` during the block, while other commands may write other files of the folder.

    wait: whether to wait until another command has let the lock go. Otherwise OwnedError is raised, as by `owned`.
    """
    with _locked(_beside(path), path, wait):
        yield


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name}{LOCK}")


@contextmanager
def _locked(lock: Path, path: Path, wait: bool = False) -> Iterator[None]:
    new = [folder for folder in (lock.parent, *lock.parent.parents) if not folder.exists()]
    with errors_named(path, lock):
        descriptor = _acquire(lock, path, wait)
    try:
        yield
    finally:
        if descriptor is not None:
            with suppress(OSError):
                lock.unlink()
            _held.discard(descriptor)
            os.close(descriptor)
        with suppress(OSError):  # a command that failed at once should not leave an empty folder
            for folder in new:
                folder.rmdir()


def remove_dead_lock(path: Path) -> None:
    """Remove the lock file beside `path` if the process that held it was killed after its last step."""
    if _beside(path).exists():
        with suppress(OSError), owned(path, beside=True):
            pass


def clear_up(folder: Path) -> None:
    """Remove incomplete files, and locks of files, that killed processes have left in a folder."""
    with suppress(OSError):  # there may be no such folder, or it may be readable only
        collect_leftovers(folder)
        for lock in folder.glob(f".*{LOCK}"):
            remove_dead_lock(folder / lock.name.removeprefix(".").removesuffix(LOCK))


class PathUse:
    """A lock on a file or folder that many commands may share, or one may have alone. It is let go with this object.

    The path itself is locked, so no file is left behind. On a file system without such locks nobody is ever alone.
    """

    def __init__(self, path: Path) -> None:
        self._descriptor = _opened(path)
        weakref.finalize(self, os.close, self._descriptor)

    def alone(self) -> bool:
        """Take the lock for this command alone. Returns False if others share it, or if there are no locks."""
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        return True

    def share(self) -> None:
        """Share the lock with other commands. This waits while another command has it alone."""
        with suppress(OSError):
            fcntl.flock(self._descriptor, fcntl.LOCK_SH)


def _opened(path: Path) -> int:
    """A descriptor of a file or folder. NFS lets only those have a file alone who may write it."""
    try:
        return os.open(path, os.O_RDWR)
    except OSError:
        return os.open(path, os.O_RDONLY)


@functools.cache
def _warn_without_locks(folder: Path, reason: str) -> None:
    logger.warning(
        "%s: the file system has no locks (%s); make sure that no other command writes there meanwhile", folder, reason
    )


def _acquire(lock: Path, path: Path, wait: bool) -> int | None:
    """The descriptor that holds the lock, or None if the file system has no locks."""
    while True:
        lock.parent.mkdir(parents=True, exist_ok=True)
        try:
            descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
        except FileNotFoundError:  # a command that failed has removed the empty folder
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            with open(descriptor, errors="replace") as file:
                holder = file.read(1000).strip() or "it has not written its name yet"
            raise OwnedError(
                f"{path}: another command is writing there ({holder}); wait until it ends, or choose another folder"
            ) from None
        except OSError as error:
            os.close(descriptor)
            lock.unlink(missing_ok=True)
            _warn_without_locks(lock.parent, str(error.strerror))
            return None
        if _is_same_file(descriptor, lock):
            break
        os.close(descriptor)  # the last owner removed the file after it was opened here
    _held.add(descriptor)
    holder = f"process {os.getpid()} on {socket.gethostname()}: {shlex.join(sys.argv)[:500]}\n"
    with suppress(OSError):  # on a full disk the lock still holds
        os.ftruncate(descriptor, 0)
        os.write(descriptor, holder.encode(errors="replace"))
    return descriptor


def _is_same_file(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False


def _let_go() -> None:
    """Close the locks in a forked process, which would otherwise hold them after its parent was killed."""
    for descriptor in _held:
        os.close(descriptor)
    _held.clear()


os.register_at_fork(after_in_child=_let_go)
