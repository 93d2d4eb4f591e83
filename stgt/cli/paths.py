"""The paths that commands take."""

from __future__ import annotations

from pathlib import Path

import tyro

from stgt.paths import given_path

PARSERS = tyro.constructors.ConstructorRegistry()
"""The rules by which tyro reads arguments, in addition to its own"""


@PARSERS.primitive_rule
def _path(info: tyro.constructors.PrimitiveTypeInfo) -> tyro.constructors.PrimitiveConstructorSpec[Path] | None:
    if info.type is not Path:
        return None
    return tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar="PATH",
        instance_from_str=lambda words: given_path(words[0]),
        is_instance=lambda value: isinstance(value, Path),
        str_from_instance=lambda path: [str(path)],
    )
