"""A single HTML page with all figures of a clip. It embeds the pictures, and has no scripts or external files."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from stgt.files import write_text
from stgt.terminal import printable

STYLE = """
body { max-width: 68rem; margin: 2rem auto; padding: 0 1.5rem; font: 16px/1.5 system-ui, sans-serif; color: #1a1a1a; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.15rem; margin: 0 0 .6rem; }
table { border-collapse: collapse; font-size: .9rem; } td { padding: .15rem 1.2rem .15rem 0; vertical-align: top; }
td:first-child { color: #666; }
figure { margin: 2.5rem 0; padding-top: 1.2rem; border-top: 1px solid #ddd; }
img { max-width: 100%; height: auto; }
figcaption { margin-top: .6rem; font-size: .9rem; color: #333; max-width: 52rem; }
"""


class Picture(NamedTuple):
    """A figure of the page: its file, its title, and a caption of a few sentences."""

    file: Path
    title: str
    caption: str


def write_page(out: Path, title: str, settings: Mapping[str, str], pictures: Sequence[Picture]) -> None:
    """Write the page in UTF-8. settings: the names and values that a reader needs to make the page again."""
    rows = "\n".join(f"<tr><td>{_text(name)}</td><td>{_text(value)}</td></tr>" for name, value in settings.items())
    figures = "\n".join(
        f'<figure id="{_text(picture.file.stem)}">\n<h2>{_text(picture.title)}</h2>\n'
        f'<img alt="{_text(picture.title)}" {_embedded(picture.file)}>\n'
        f"<figcaption>{_text(picture.caption)}</figcaption>\n</figure>"
        for picture in pictures
    )
    write_text(
        out,
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width">\n<title>{_text(title)}</title>\n'
        f"<style>{STYLE}</style>\n</head>\n<body>\n<h1>{_text(title)}</h1>\n<table>\n{rows}\n</table>\n"
        f"{figures}\n</body>\n</html>\n",
    )


def _text(value: object) -> str:
    """Text that is safe in HTML: without tags, control characters, and characters that UTF-8 cannot encode."""
    return escape(printable(value))


def _embedded(file: Path) -> str:
    """Attributes that embed the picture as WebP, which takes a tenth of the PNG's bytes.

    The picture is shown at half its size, so it is sharp on high-resolution screens too.
    """
    data = io.BytesIO()
    with Image.open(file) as picture:
        picture.convert("RGB").save(data, "WEBP", quality=90)
        width, height = (length // 2 for length in picture.size)
    return (
        f'width="{width}" height="{height}" src="data:image/webp;base64,{base64.b64encode(data.getvalue()).decode()}"'
    )
