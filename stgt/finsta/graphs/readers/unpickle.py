"""Reads pickles of plain values and NumPy arrays without running any code that a file names."""

from __future__ import annotations

import itertools
import operator
import os
import pickle
from pathlib import Path
from typing import BinaryIO, ClassVar

import numpy as np

from stgt.paths import no_such_file


def unpickle_plain(path: str | Path, kind: type) -> object:
    """The value in a pickle that consists of plain values and NumPy arrays of numbers. The arrays become lists.

    kind: the expected type. The file can call nothing but the functions below, which make lists, numbers and bytes.
    Raises ValueError that names the file if it holds anything else or is damaged.
    """
    try:
        with open(path, "rb") as file:
            value = _Unpickler(file, os.fstat(file.fileno()).st_size).load()
    except FileNotFoundError:
        raise ValueError(no_such_file(path)) from None
    except OSError:
        raise
    except MemoryError:
        raise MemoryError(f"{path}: it holds more than fits into memory, or is no pickle") from None
    except _RefusedError as error:
        raise ValueError(f"{path}: {error}, expected plain values and NumPy arrays") from None
    except Exception as error:  # damaged bytes can make the unpickler raise anything
        raise ValueError(f"{path}: it is no readable pickle ({type(error).__name__}: {error})") from None
    if not isinstance(value, kind):
        raise ValueError(f"{path}: holds a {type(value).__name__}, expected a {kind.__name__}")
    return value


class _RefusedError(Exception):
    """A file names something that is not plain data."""


class _Unpickler(pickle._Unpickler):
    """The unpickler in Python, since the one in C allocates as much memory for its memo as the file asks for."""

    dispatch: ClassVar[dict] = dict(pickle._Unpickler.dispatch)

    def __init__(self, file: BinaryIO, size: int) -> None:
        super().__init__(file)
        self._size, self._values, self._bytes = size, 0, 0

    def _count(self, made: object) -> None:
        """Refuse a file whose arrays have more values than the file has bytes, or whose texts make more bytes.

        Such a file names the same bytes many times, while each number of a real array has bytes of its own.
        """
        self._values += made.count if isinstance(made, _Array) else 0
        self._bytes += len(made) if isinstance(made, bytes) else 0
        if max(self._values, self._bytes) > self._size:
            raise _RefusedError("its arrays hold more values than the file has bytes")

    def load_reduce(self) -> None:
        super().load_reduce()
        self._count(self.stack[-1])

    dispatch[pickle.REDUCE[0]] = load_reduce

    def load_build(self) -> None:
        """Set what belongs to an array. The base class would also set attributes of the functions below."""
        if not isinstance(self.stack[-2], _DType | _Array):
            raise _RefusedError(f"it sets attributes of a {type(self.stack[-2]).__name__}")
        super().load_build()
        self._count(self.stack[-1])

    dispatch[pickle.BUILD[0]] = load_build

    def find_class(self, module: str, name: str) -> object:
        found = _KNOWN.get(f"{module.replace('numpy._core', 'numpy.core')}.{name}")
        if found is None:
            raise _RefusedError(f"it names {module}.{name}, which could run code")
        return found


class _DType:
    """Stands for a dtype of NumPy. The pickle makes it first, and then sets its byte order."""

    def __init__(self, name: str, *_: object) -> None:
        self.found = np.dtype(name)
        if self.found.kind not in "biuf":
            raise _RefusedError(f"it has an array of {self.found}")

    def __setstate__(self, state: tuple) -> None:
        self.found = self.found.newbyteorder(state[1])


class _Array(list):
    """Stands for an array of NumPy. The pickle makes it empty, and then sets its numbers."""

    count = 0
    """Number of values"""

    def __setstate__(self, state: tuple) -> None:
        _, shape, dtype, is_fortran, data = state
        filled = _filled(data, dtype, shape, "F" if is_fortran else "C")
        self[:], self.count = filled, filled.count


def _array(*_: object) -> _Array:
    return _Array()


def _filled(data: bytes, dtype: _DType, shape: tuple, order: str) -> _Array:
    array = np.frombuffer(data, dtype.found).reshape(shape, order=order)
    # Axes of length 0 and 1 make any number of lists from few values.
    if sum(itertools.accumulate(array.shape[:-1], operator.mul)) > 2 * array.size + array.ndim:
        raise _RefusedError(f"it has an array of shape {shape}")
    values = _Array(array.tolist())
    values.count = array.size
    return values


def _scalar(dtype: _DType, data: bytes) -> bool | int | float:
    return np.frombuffer(data, dtype.found, 1)[0].item()


def _latin1(text: str, encoding: str) -> bytes:
    """Makes bytes from text, as pickles that Python 2 can read store them."""
    if encoding != "latin1":
        raise _RefusedError(f"it names the encoding {encoding!r}")
    return text.encode("latin1")


def _no_bytes() -> bytes:
    """Makes empty bytes, which pickles that Python 2 can read store as a call of bytes()."""
    return b""


_KNOWN = {
    "__builtin__.bytes": _no_bytes,
    "_codecs.encode": _latin1,
    "numpy.core.multiarray._reconstruct": _array,
    "numpy.core.multiarray.scalar": _scalar,
    "numpy.core.numeric._frombuffer": _filled,
    "numpy.dtype": _DType,
    "numpy.ndarray": _Array,
}
