"""Reads JSON from untrusted files. Anything odd raises a ValueError with the file, the place and the expected value.

Python's parser accepts NaN and infinities, keeps the last of two equal keys without an error, and fails with errors of
several kinds at deep nesting and long numbers. Half of a surrogate pair, such as "\\ud800", cannot be written again.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from stgt.paths import no_such_file

DEEPEST = 100
"""Most levels of lists and objects that are read. Later steps are recursive, and fail at some hundreds of levels"""
_HALF = re.compile("[\ud800-\udfff]")
_MAY_BE_HALF = re.compile(r"\\u[dD][89a-fA-F]")
_KINDS = {dict: "an object", list: "a list", str: "a text", int: "a whole number", float: "a number"}


class _Refused(NamedTuple):
    """A part of the parsed value that stands for something in the file that is refused."""

    found: str
    expected: str


def read_json(path: str | Path, kind: type | None = None) -> object:
    """The value in a JSON file in UTF-8. kind: the expected type, dict or list, or None for any.

    Raises ValueError for anything odd and for a missing file, and OSError if an existing file cannot be read.
    """
    try:
        text = Path(path).read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise ValueError(f"{path}: line {line} is not UTF-8 ({error.reason}), expected text in UTF-8") from None
    except FileNotFoundError:
        raise ValueError(no_such_file(path)) from None
    except IsADirectoryError:
        raise ValueError(f"{path}: a folder, expected a file") from None
    return parse_json(text, str(path), kind)


def parse_json(text: str, where: str, kind: type | None = None) -> object:
    """Like `read_json`, for a JSON text. where: the beginning of the message of every ValueError."""
    refused: list[_Refused] = []

    def refuse(found: str, expected: str) -> _Refused:
        refused.append(_Refused(found, expected))
        return refused[-1]

    def pairs(items: list[tuple[str, object]]) -> object:
        value = dict(items)
        if len(value) == len(items):
            return value
        twice = Counter(key for key, _ in items).most_common(1)[0][0]
        return refuse(f"an object that has the key {shown(twice)} twice", "each key once")

    def whole(digits: str) -> object:
        return int(digits) if len(digits) < 20 else refuse(f"a number of {len(digits)} digits", "fewer than 20")

    def real(digits: str) -> object:
        value = float(digits)
        return value if math.isfinite(value) else refuse(shown(digits), "a number that fits 64 bits")

    try:
        value = json.loads(
            text,
            object_pairs_hook=pairs,
            parse_int=whole,
            parse_float=real,
            parse_constant=lambda name: refuse(name, "a finite number"),
        )
        deep = _levels(value) > DEEPEST
    except RecursionError:
        deep = True
    except json.JSONDecodeError as error:
        hint = ", expected one value; a file with a value in each line (JSON Lines) is not read"
        raise ValueError(f"{where}: not JSON ({error}){hint if error.msg == 'Extra data' else ''}") from None
    if deep:
        raise ValueError(f"{where}: lists or objects are nested too deeply, expected at most {DEEPEST} levels")
    if refused or _MAY_BE_HALF.search(text):
        _refuse_odd(value, where)
    if kind is not None and not isinstance(value, kind):
        raise ValueError(f"{where}: holds {shown(value)}, expected {_KINDS[kind]}")
    return value


def require_readable(values: dict, where: str) -> None:
    """Raise ValueError, which begins with `where`, if `read_json` would refuse a file that holds these values."""
    parse_json(json.dumps(values), where)


def field(values: dict, key: str, kind: type, where: str) -> object:
    """A value of a JSON object. Raises ValueError if it is missing or not of type `kind`.

    A whole number counts as a float. A bool does not count as a number.
    """
    if key not in values:
        raise ValueError(f"{where}: there is no {key!r}, expected {_KINDS[kind]}")
    value = values[key]
    fits = isinstance(value, int | float if kind is float else kind) and not isinstance(value, bool)
    if not fits:
        raise ValueError(f"{where}: {key!r} is {shown(value)}, expected {_KINDS[kind]}")
    return value


def shown(value: object) -> str:
    """A JSON value for an error message: on one line, and cut off if it is long."""
    try:
        text = json.dumps(value, ensure_ascii=False)
    except (RecursionError, TypeError, ValueError):
        text = f"a {type(value).__name__}"
    return text if len(text) <= 80 else f"{text[:80]}…"


def _levels(value: object) -> int:
    """The depth of nested lists and objects, counted up to DEEPEST + 1."""
    level, count = [value], 0
    while (level := [part for part in level if isinstance(part, list | dict)]) and count <= DEEPEST:
        level = [each for part in level for each in (part.values() if isinstance(part, dict) else part)]
        count += 1
    return count


def _refuse_odd(value: object, where: str) -> None:
    """Raise a ValueError that names the place of the first odd part."""
    left: list[tuple[str, object]] = [("", value)]
    while left:
        place, part = left.pop()
        if isinstance(part, str) and _HALF.search(part):
            part = _Refused("half of a surrogate pair (\\ud800 to \\udfff)", "text")
        if isinstance(part, _Refused):
            at = f" at {place.lstrip('.')}" if place else ""
            raise ValueError(f"{where}: found {part.found}{at}, expected {part.expected}")
        if isinstance(part, dict):
            left += [(f"{place}.{key}", each) for key, each in reversed(part.items())]
            left += [(f"{place}.{key!r}", key) for key in part if _HALF.search(key)]
        elif isinstance(part, list):
            left += [(f"{place}[{number}]", each) for number, each in reversed([*enumerate(part)])]
