"""The paths that commands take."""

from __future__ import annotations

from pathlib import Path

import tyro

PARSERS = tyro.constructors.ConstructorRegistry()
"""The rules by which tyro reads arguments, in addition to its own"""


@PARSERS.primitive_rule
def _path(info: tyro.constructors.PrimitiveTypeInfo) -> tyro.constructors.PrimitiveConstructorSpec[Path] | None:
    if info.type is not Path:
        return None
    return tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar="PATH",
        instance_from_str=lambda words: read_path(words[0]),
        is_instance=lambda value: isinstance(value, Path),
        str_from_instance=lambda path: [str(path)],
    )


def read_path(word: str) -> Path:
    """The path that a word of a command names. Raises ValueError for an empty word, which would be the present folder.

    A word is empty by mistake, as that of a variable of the shell that is not set.
    """
    if not word:
        raise ValueError("the path is '', expected a file or a folder; the present folder is '.'")
    return Path(word)
