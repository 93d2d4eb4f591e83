"""Files and folders that appear whole or not at all, and fingerprints of what files and tensors hold.

Everything is written beside its place under a temporary name, forced to the disk, and renamed. The temporary name
carries the process and the machine, so that what a killed process left behind can be told from what a living one is
writing; it ends as the final name does, since many libraries choose a format by the ending.
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
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

_TEMPORARY = re.compile(r"\.partial-(?P<pid>\d+)-\d+@(?P<host>[^@]+)@")
_numbers = itertools.count()


@contextmanager
def atomic_file(path: str | Path) -> Iterator[Path]:
    """A temporary file to write to, by its path; it replaces `path` when the block ends without an exception.

    The folder of `path` is made if it is not there. A failed block leaves the old file, or none. What is no ordinary
    file, such as /dev/stdout or a pipe, is written directly. Raises OSError that names `path` if it cannot be written.
    """
    path, target = Path(path), Path(os.path.realpath(path))  # a link stays, and the file that it leads to is replaced
    partial = _temporary(target)
    with errors_named(path, target, partial):
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, "it is a folder, expected a file", None)
        if path.exists() and not path.is_file():
            yield path
            return
        _prepare(target.parent)
        try:
            with open(partial, "xb") as file:  # made here, so that it has the permissions of the user's umask
                mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            yield partial
            _seal(partial, mode)
            os.replace(partial, target)
            _sync(target.parent)
        finally:
            partial.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: str | Path, *, replace: bool = False) -> Iterator[Path]:
    """A temporary folder to fill; it is renamed to `path` when the block ends without an exception.

    Everything in it is forced to the disk first. Raises FileExistsError if `path` is there and is no empty folder;
    with `replace` a folder that is there is removed in the end. Other errors are as with `atomic_file`.
    """
    path, target = Path(path), Path(os.path.realpath(path))
    partial = _temporary(target)
    with errors_named(path, target, partial):
        _prepare(target.parent)
        if path.is_file() or (path.is_dir() and any(path.iterdir()) and not replace):
            raise FileExistsError(errno.EEXIST, "it is there already", None)
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


def write_text(path: str | Path, text: str) -> None:
    """Write a text in UTF-8, whole or not at all."""
    with atomic_file(path) as partial:
        partial.write_text(text, "utf-8")


def write_json(path: str | Path, value: object, *, indent: int | None = 1) -> None:
    """Write a JSON file in UTF-8, whole or not at all.

    A surrogate, which stands for a byte of a file name that is not UTF-8, is written as JSON's own escape.
    """
    text = json.dumps(value, ensure_ascii=False, indent=indent)
    write_text(path, text.encode("utf-8", "backslashreplace").decode("utf-8"))


def write_tensors(path: str | Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write tensors of any device as a safetensors file, whole or not at all."""
    with atomic_file(path) as partial:
        save_tensors(partial, tensors, metadata)


def save_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write tensors of any device as a safetensors file inside `atomic_file` or `atomic_folder`."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    try:
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, path, metadata)
    except SafetensorError as error:  # it hides the operating system's error
        raise OSError(_errno_of(error), str(error), None) from error


def remove_folder(folder: Path) -> None:
    """Remove a folder that is never seen in part: it gets a temporary name before its files are removed."""
    doomed = _temporary(folder)
    os.rename(folder, doomed)
    shutil.rmtree(doomed)


def collect_leftovers(folder: Path) -> None:
    """Remove from `folder` what processes of this machine were writing there when they were killed."""
    for entry in os.scandir(folder):
        name = _TEMPORARY.match(entry.name)
        if name is None or name["host"] != _host() or _is_alive(int(name["pid"])):
            continue
        if entry.is_dir(follow_symlinks=False):
            shutil.rmtree(entry.path, ignore_errors=True)
        else:
            Path(entry.path).unlink(missing_ok=True)


_collect_once = functools.cache(collect_leftovers)  # a folder of many files is looked through by their first writer


def file_hash(path: str | Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def tensors_hash(tensors: Mapping[str, Tensor], settings: str = "") -> str:
    """SHA-256 of tensors, with their names, shapes and dtypes, and of settings that belong to them."""
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
    """Turn an operating system's error while `path` is written, or a lack of memory, into an error that names it.

    A full disk's error names no file, and others may name one of `others`, which stand for `path`. Errors about further
    files, which the block may read, are left as they are.
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
        kind = type(error) if type(error).__module__ == "builtins" else OSError  # others ask for arguments of their own
        named = kind(f"{path}: could not be written ({error.strerror}); what was there before is unchanged")
        named.errno = error.errno
        raise named from error
    except MemoryError as error:
        raise MemoryError(f"{path}: could not be written; what was there before is unchanged ({error})") from error


def _prepare(folder: Path) -> None:
    """Make a folder to write into, and remove what dead processes left there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise NotADirectoryError(errno.ENOTDIR, f"{folder} is a file, expected a folder", None) from None
    _collect_once(folder)


def _temporary(path: Path) -> Path:
    """A name beside `path` that no other writer uses; a file's name has 255 bytes, so that only its end is kept."""
    return path.with_name(f".partial-{os.getpid()}-{next(_numbers)}@{_host()}@{path.name[-32:]}")


@functools.cache
def _host() -> str:
    """This machine's name, with the set of processes that a container sees: others count theirs from 1 as well."""
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
    except PermissionError:  # it is another user's
        return True
    return True


def _seal(file: Path, mode: int) -> None:
    """Give a file its permissions, since some libraries make files that only the owner can read, and force it out."""
    os.chmod(file, mode)
    _sync(file)


def _errno_of(error: Exception) -> int:
    """The number in "… (os error 28)", which is how Rust prints an operating system's error."""
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
