"""What `torch.save` wrote, without running any code that the file names."""

from __future__ import annotations

import pickle
import re
from collections import Counter
from pathlib import Path

import torch

# What scripts save beside the weights. Files of PyTorch before 1.6, which are no ZIP archives, may name nothing else.
_USUAL = (
    "argparse.Namespace",
    *(f"numpy.{core}.multiarray.{name}" for core in ("core", "_core") for name in ("scalar", "_reconstruct")),
    *("numpy.dtype", "numpy.ndarray"),
)

# The cause in an error of the unpickler, which surrounds it with advice to run the file's code.
_CAUSE = re.compile(
    r"(GLOBAL \S+ was not an allowed|Unsupported|Trying to|Can only|must be imported)[^.\n]*(\.\w[^.\n]*)*"
)


class _Empty:
    """Stands for a class or function that a file names. A call, whatever its arguments, gives an empty Counter.

    Of the types that PyTorch's unpickler lets a file fill, Counter is the one that takes both items and attributes.
    """

    def __new__(cls, *args: object) -> Counter:
        return Counter()


class _EmptyArray:
    """Stands for NumPy's arrays, numbers and types, whose state is neither items nor attributes."""

    def __new__(cls, *args: object) -> _EmptyArray:
        return super().__new__(cls)

    def __setstate__(self, state: object) -> None:
        pass


def unpickle(path: Path) -> object:
    """The content of a file on the CPU: tensors and plain values as they are, all other objects empty.

    It is read by PyTorch's `weights_only` unpickler, which calls only what it is given for the names in the file: its
    own tensor functions, and here an empty class for every other name. The modules that it never allows, such as os,
    are refused. Raises ValueError, in one line, for what cannot be read so.
    """
    try:
        with torch.serialization.safe_globals([(_stand_in(name), name) for name in _foreign_names(path)]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, ValueError) as error:
        if cause := _CAUSE.search(str(error)):
            raise ValueError(
                f"{path} cannot be read without running code that it names ({cause[0]}); where you trust it, load it "
                "with the program that wrote it, and save its state dict alone, in torch.save's own pickle protocol"
            ) from error
        raise ValueError(f"{path} is not a checkpoint of plain tensors: {str(error).splitlines()[0]}") from error
    except (EOFError, MemoryError, OSError, RuntimeError):
        raise
    except Exception as error:  # PyTorch's unpickler follows damaged bytes wherever they lead
        cause = f"its pickled part is damaged ({type(error).__name__})"
        raise ValueError(f"{path} is not a checkpoint of plain tensors: {cause}") from error


def _foreign_names(path: Path) -> set[str]:
    """The classes and functions that a file names and that PyTorch does not consider plain data."""
    with open(path, "rb") as file:
        zipped = file.read(4) == b"PK\x03\x04"
    return {*_USUAL, *(torch.serialization.get_unsafe_globals_in_checkpoint(path) if zipped else ())}


def _stand_in(name: str) -> type:
    return _EmptyArray if name.startswith("numpy.") else _Empty
