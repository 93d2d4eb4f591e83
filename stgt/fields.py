"""Dataclasses from JSON values, and checks of their fields: types, and values that make sense."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from types import NoneType, UnionType
from typing import Literal, Union, get_args, get_origin, get_type_hints

from stgt.structure import shown

# A larger size is a mistake. It is refused at once, so that no file can make the memory run out.
WIDEST, DEEPEST, LONGEST, WORDS = 65_536, 1_000, 10_000, 10_000_000
COUNT = 10**12

_NAMES = {
    int: "a whole number",
    float: "a number",
    bool: "True or False",
    str: "a text",
    Path: "a path",
    NoneType: "None",
}


def require(config: object, name: str, holds: bool, expected: str) -> None:
    """Raise a ValueError that names the field, its value and the expected value, unless the condition holds."""
    if not holds:
        value = repr(getattr(config, name))
        value = value if len(value) <= 80 else f"{value[:80]}…"
        raise ValueError(f"{type(config).__name__}.{name} is {value}, expected {expected}")


def require_types(config: object) -> None:
    """Check every field against its annotation. A bool does not count as a number. An int is accepted as a float."""
    for name, hint in hints(type(config)).items():
        require(config, name, _fits(getattr(config, name), hint), _described(hint))


def require_counts(config: object, **largest: int) -> None:
    """Check that fields are at least 1 and at most the given number. A larger size is a mistake."""
    for name, most in largest.items():
        require(config, name, 1 <= getattr(config, name) <= most, f"at least 1 and at most {most}")


def require_range(config: object, low: float, high: float, *names: str) -> None:
    """Check that fields are in [low, high]."""
    for name in names:
        # NaN fails both comparisons, so it is refused as well.
        require(config, name, low <= getattr(config, name) <= high, f"a number in [{low:g}, {high:g}]")


def from_dict(cls: type, values: object) -> object:
    """A dataclass made of JSON values. Raises ValueError for unknown and missing fields and values of another type."""
    if not isinstance(values, dict):
        raise ValueError(f"{cls.__name__} is {shown(values)}, expected an object with its fields")
    kinds = hints(cls)
    if unknown := sorted(map(str, values.keys() - kinds.keys())):
        raise ValueError(f"{cls.__name__} has no field {', '.join(unknown)[:80]}")
    nothing = dataclasses.MISSING
    needed = {part.name for part in dataclasses.fields(cls) if part.default is part.default_factory is nothing}
    if missing := sorted(needed - values.keys()):
        raise ValueError(f"{cls.__name__} needs the field {', '.join(missing)}")
    return cls(**{name: _convert(kinds[name], value) for name, value in values.items()})


def _convert(hint: object, value: object) -> object:
    """A JSON value converted to the type of its field where JSON has no such type. Types are checked afterwards."""
    for kind in alternatives(hint):
        if dataclasses.is_dataclass(kind) and isinstance(value, dict):
            return from_dict(kind, value)
        if kind is Path and isinstance(value, str) and value:  # Path("") would be the present folder
            return Path(value)
    return tuple(value) if isinstance(value, list) else value


@functools.cache
def hints(cls: type) -> dict[str, object]:
    """The types of a dataclass's fields."""
    found = get_type_hints(cls)
    return {field.name: found[field.name] for field in dataclasses.fields(cls)}


def alternatives(hint: object) -> tuple:
    """The types that a union consists of, or the type itself."""
    return get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)


def _fits(value: object, hint: object) -> bool:
    kinds = alternatives(hint)
    if len(kinds) > 1:
        return any(_fits(value, kind) for kind in kinds)
    if get_origin(hint) is Literal:
        return any(type(value) is type(choice) and value == choice for choice in get_args(hint))
    if get_origin(hint) is tuple:
        parts = get_args(hint)
        if not isinstance(value, tuple):
            return False
        if parts[-1] is Ellipsis:
            return all(_fits(part, parts[0]) for part in value)
        return len(value) == len(parts) and all(map(_fits, value, parts))
    if hint in (int, float):
        return isinstance(value, int | float if hint is float else int) and not isinstance(value, bool)
    if hint is Path:
        return isinstance(value, Path) and "\0" not in str(value)
    return isinstance(value, hint)


def _described(hint: object) -> str:
    kinds = alternatives(hint)
    if len(kinds) > 1:
        return " or ".join(map(_described, kinds))
    if get_origin(hint) is Literal:
        return "one of " + ", ".join(map(repr, get_args(hint)))
    if get_origin(hint) is tuple:
        parts = get_args(hint)
        if parts[-1] is Ellipsis:
            return f"a list in which each entry is {_described(parts[0])}"
        return f"a list of {len(parts)}: " + ", ".join(map(_described, parts))
    return _NAMES.get(hint) or f"the fields of {hint.__name__}"
