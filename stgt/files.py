"""Writes files and folders that are complete or absent, and computes hashes of files and tensors.

Everything is written under a temporary name in the same folder, forced to the disk, and renamed. The temporary name
holds the process and the machine, so that leftovers of a killed process can be told from the files of a living one. It
has the ending of the final name, since many libraries choose a format by the ending.
"""

from __future__ import annotations

import errno
import functools
import hashlib
import itertools
import json
import os
import re
import shutil
import socket
import stat
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

_TEMPORARY = re.compile(r"\.partial-(?P<pid>\d+)-\d+@(?P<host>[^@]+)@")
_numbers = itertools.count()
LONGEST_USE = 24 * 3600
"""Seconds after which no process uses a scratch file any more"""


@contextmanager
def atomic_file(path: str | Path) -> Iterator[Path]:
    """Yields the path of a temporary file, which replaces `path` when the block ends without an exception.

    The folder of `path` is made if needed. If the block fails, the old file stays, if there is one. If `path` is not an
    ordinary file but, say, /dev/stdout or a pipe, it is written directly. Raises OSError that names `path` if it cannot
    be written.
    """
    path, target = Path(path), Path(os.path.realpath(path))  # a link stays, and the file behind it is replaced
    partial = _temporary(target)
    with errors_named(path, target, partial):
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, "it is a folder, expected a file", None)
        if path.exists() and not path.is_file():
            yield path
            return
        _prepare(target.parent)
        try:
            with open(partial, "xb") as file:  # the file gets the permissions of the user's umask
                mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            yield partial
            _seal(partial, mode)
            os.replace(partial, target)
            _sync(target.parent)
        finally:
            partial.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: str | Path, *, replace: bool = False) -> Iterator[Path]:
    """Yields a temporary folder, which is renamed to `path` when the block ends without an exception.

    Everything in it is forced to the disk first. Raises FileExistsError if `path` exists and is not an empty folder.
    With `replace`, an existing folder is removed at the end instead. Other errors are the same as in `atomic_file`.
    """
    path, target = Path(path), Path(os.path.realpath(path))
    partial = _temporary(target)
    with errors_named(path, target, partial):
        _prepare(target.parent)
        if path.is_file() or (path.is_dir() and any(path.iterdir()) and not replace):
            raise FileExistsError(errno.EEXIST, "it exists already", None)
        try:
            partial.mkdir()
            yield partial
            mode = stat.S_IMODE(partial.stat().st_mode) & 0o666
            for folder, _, files in os.walk(partial):
                for file in files:
                    _seal(Path(folder, file), mode)
                _sync(Path(folder))
            if target.exists():
                remove_folder(target)
            os.rename(partial, target)
            _sync(target.parent)
        finally:
            shutil.rmtree(partial, ignore_errors=True)


@contextmanager
def scratch_file(contents: bytes, ending: str) -> Iterator[Path]:
    """Yields a file with some bytes and an ending such as ".mp4", and removes it after the block.

    It is in memory where /dev/shm has room for it, and else in the folder for temporary files. No other user can look
    into its folder. Files that killed processes left there are removed.
    """
    file = _write_scratch(contents, ending)
    try:
        yield file
    finally:
        file.unlink(missing_ok=True)


def _write_scratch(contents: bytes, ending: str) -> Path:
    memory, disk = Path("/dev/shm"), Path(tempfile.gettempdir())
    if memory.is_dir() and shutil.disk_usage(memory).free > 2 * len(contents):
        with suppress(OSError):  # other processes may have filled it meanwhile, or another user has taken the name
            return _write_private(memory, contents, ending)
    return _write_private(disk, contents, ending)


def _write_private(place: Path, contents: bytes, ending: str) -> Path:
    """Write a new file in this user's folder below `place`, which every user can write."""
    folder = place / f"stgt-{os.getuid()}"
    file = _temporary(folder / f"file{ending}")
    with errors_named(folder, file):
        folder.mkdir(mode=0o700, exist_ok=True)
        found = os.lstat(folder)
        if found.st_uid != os.getuid() or not stat.S_ISDIR(found.st_mode):
            raise PermissionError(errno.EACCES, "it is not a folder of this user, and is not used", None)
        os.chmod(folder, 0o700)
        _collect_scratch_once(folder)
        try:
            with open(file, "xb") as opened:
                opened.write(contents)
        except BaseException:
            file.unlink(missing_ok=True)
            raise
    return file


@functools.cache  # a process looks through each folder once
def _collect_scratch_once(folder: Path) -> None:
    """Remove files of killed processes, and old ones, whose process was in a container that is gone."""
    collect_leftovers(folder)
    for file in folder.iterdir():
        with suppress(OSError):
            if time.time() - os.stat(file).st_mtime > LONGEST_USE:
                file.unlink()


def write_text(path: str | Path, text: str) -> None:
    """Write a text file in UTF-8, completely or not at all."""
    with atomic_file(path) as partial:
        partial.write_text(text, "utf-8")


def write_json(path: str | Path, value: object, *, indent: int | None = 1) -> None:
    """Write a JSON file in UTF-8, completely or not at all.

    A surrogate, which stands for a byte of a file name that is not UTF-8, is written as JSON's own escape.
    """
    text = json.dumps(value, ensure_ascii=False, indent=indent)
    write_text(path, text.encode("utf-8", "backslashreplace").decode("utf-8"))


def write_tensors(path: str | Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write tensors of any device to a safetensors file, completely or not at all."""
    with atomic_file(path) as partial:
        save_tensors(partial, tensors, metadata)


def save_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write tensors of any device to a safetensors file, for use inside `atomic_file` or `atomic_folder`."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    try:
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, path, metadata)
    except SafetensorError as error:  # it hides the operating system's error
        raise OSError(_errno_of(error), str(error), None) from error


def remove_folder(folder: Path) -> None:
    """Remove a folder. It gets a temporary name first, so that nobody sees it with only some of its files."""
    doomed = _temporary(folder)
    os.rename(folder, doomed)
    shutil.rmtree(doomed)


def collect_leftovers(folder: Path) -> None:
    """Remove files and folders that killed processes of this machine left incomplete in `folder`."""
    for entry in os.scandir(folder):
        name = _TEMPORARY.match(entry.name)
        if name is None or name["host"] != _host() or _is_alive(int(name["pid"])):
            continue
        if entry.is_dir(follow_symlinks=False):
            shutil.rmtree(entry.path, ignore_errors=True)
        else:
            Path(entry.path).unlink(missing_ok=True)


_collect_once = functools.cache(collect_leftovers)  # a process looks through each folder once


def file_hash(path: str | Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def tensors_hash(tensors: Mapping[str, Tensor], settings: str = "") -> str:
    """SHA-256 of tensors with their names, shapes and dtypes, and of a text of settings."""
    import torch

    digest = hashlib.sha256(settings.encode())
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        if tensor.numel():  # an empty tensor cannot be viewed as bytes
            digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


@contextmanager
def errors_named(path: Path, *others: Path) -> Iterator[None]:
    """Replace an error of the operating system, or a lack of memory, by an error that names `path`.

    The error for a full disk names no file. Other errors may name one of `others`, which are other paths for `path`.
    Errors about further files, which the block may read, are not changed.
    """
    written = (path, *others)
    folders = {str(folder) for file in written for folder in file.parents}
    try:
        yield
    except OSError as error:
        name = error.filename
        ours = name is None or str(name) in folders or str(name).startswith(tuple(map(str, written)))
        if error.errno is None or not ours:
            raise
        kind = type(error) if type(error).__module__ == "builtins" else OSError  # other types may need other arguments
        named = kind(f"{path}: could not be written ({_reason(error)}); what was there before is unchanged")
        named.errno = error.errno
        raise named from error
    except MemoryError as error:
        raise MemoryError(f"{path}: could not be written; what was there before is unchanged ({error})") from error


def _reason(error: OSError) -> str:
    """The operating system's message, also for an error that names a file inside a folder that is written."""
    while error.strerror is None and isinstance(error.__cause__, OSError):
        error = error.__cause__
    return error.strerror or str(error)


def _prepare(folder: Path) -> None:
    """Make a folder to write into, and remove leftovers of killed processes from it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise NotADirectoryError(errno.ENOTDIR, f"{folder} is a file, expected a folder", None) from None
    _collect_once(folder)


def _temporary(path: Path) -> Path:
    """A name beside `path` that no other writer uses. It holds only the end of the name, to stay below 255 bytes."""
    return path.with_name(f".partial-{os.getpid()}-{next(_numbers)}@{_host()}@{path.name[-32:]}")


@functools.cache
def _host() -> str:
    """The name of this machine and of its process namespace, since every container numbers its processes from 1."""
    try:
        processes = os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        processes = 0
    return f"{re.sub(r'[^A-Za-z0-9.-]', '', socket.gethostname())[:64]}.{processes}"


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # it belongs to another user
        return True
    return True


def _seal(file: Path, mode: int) -> None:
    """Set a file's permissions, since some libraries make it readable by its owner only, and force it to the disk."""
    os.chmod(file, mode)
    _sync(file)


def _errno_of(error: Exception) -> int:
    """The number in "… (os error 28)", the form in which Rust prints an error of the operating system."""
    number = re.search(r"os error (\d+)", str(error))
    return int(number[1]) if number else errno.EIO


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EBADF):  # some file systems cannot force a folder to the disk
            raise
    finally:
        os.close(descriptor)
