"""Reads files that `torch.save` wrote, without running any code that a file names."""

from __future__ import annotations

import pickle
import re
from collections import Counter
from pathlib import Path

import torch

from stgt.causes import first_line

# The first bytes of the files that torch.save writes, since PyTorch 1.6 and before.
_ZIP, _PICKLE = b"PK\x03\x04", b"\x80"

# Classes and functions that scripts often save beside the weights. Files of PyTorch before 1.6 are not ZIP archives,
# and may name no others.
_USUAL = (
    "argparse.Namespace",
    *(f"numpy.{core}.multiarray.{name}" for core in ("core", "_core") for name in ("scalar", "_reconstruct")),
    *("numpy.dtype", "numpy.ndarray"),
)

# This matches the cause in an error of the unpickler. The rest of the error advises to run the file's code.
_CAUSE = re.compile(
    r"(GLOBAL \S+ was not an allowed|Unsupported|Trying to|Can only|must be imported)[^.\n]*(\.\w[^.\n]*)*"
)


class _Empty:
    """Replaces a class or function that a file names. A call with any arguments returns an empty Counter.

    PyTorch's unpickler lets a file fill objects of a few types. Counter alone accepts both items and attributes.
    """

    def __new__(cls, *args: object) -> Counter:
        return Counter()


class _EmptyArray:
    """Replaces NumPy's arrays, numbers and types, whose state is neither items nor attributes."""

    def __new__(cls, *args: object) -> _EmptyArray:
        return super().__new__(cls)

    def __setstate__(self, state: object) -> None:
        pass


def unpickle(path: Path) -> object:
    """The content of a file on the CPU, with its tensors and plain values. All other objects become empty.

    PyTorch's `weights_only` unpickler reads the file. It only calls its own tensor functions, and the empty classes
    that replace all other names here. It refuses modules that it never allows, such as os.
    Raises ValueError with one line if the file cannot be read in this way.
    """
    with open(path, "rb") as file:
        begin = file.read(len(_ZIP))
    if not begin.startswith((_ZIP, _PICKLE)):
        raise ValueError(
            f"{path} begins with {begin!r}, expected a file of torch.save, or one of safetensors whose name ends in "
            ".safetensors"
        )
    try:
        # The classes and functions that a file names and that PyTorch does not consider plain data.
        foreign = torch.serialization.get_unsafe_globals_in_checkpoint(path) if begin == _ZIP else ()
        with torch.serialization.safe_globals([(_stand_in(name), name) for name in {*_USUAL, *foreign}]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, ValueError) as error:
        if cause := _CAUSE.search(str(error)):
            raise ValueError(
                f"{path} cannot be read without running code that it names ({cause[0]}); if you trust it, load it "
                "with the program that wrote it, and save its state dict alone, in torch.save's own pickle protocol"
            ) from error
        raise ValueError(f"{path} is not a checkpoint of plain tensors: {first_line(error)}") from error
    except (EOFError, MemoryError, OSError, RuntimeError):
        raise
    except Exception as error:  # PyTorch's unpickler follows damaged bytes wherever they lead
        cause = f"its pickled part is damaged ({type(error).__name__})"
        raise ValueError(f"{path} is not a checkpoint of plain tensors: {cause}") from error


def _stand_in(name: str) -> type:
    return _EmptyArray if name.startswith("numpy.") else _Empty
