"""Draws text from files in pictures, so that all its characters appear as they are."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, fontManager
from matplotlib.ft2font import FT2Font

from stgt.terminal import printable


def put_text(axes: Axes, x: float, y: float, *lines: str, **style: object) -> None:
    """Write lines at (x, y), as `Axes.text` does."""
    text, own_style = _as_it_is(lines)
    axes.text(x, y, text, **own_style, **style)


def put_title(figure: Figure, title: str, **style: object) -> None:
    """Write one line above everything else, as `Figure.suptitle` does."""
    text, own_style = _as_it_is([title])
    figure.suptitle(text, **own_style, **style)


def _as_it_is(lines: Iterable[str]) -> tuple[str, dict[str, object]]:
    """The text and a style in which `$` does not start mathematics and TeX is not used.

    Letters that the usual font lacks come from another installed font. If no font has them, they appear as escapes,
    such as \\u65e5. Control characters appear as escapes too.
    """
    text = "\n".join(map(printable, lines))
    fonts, missing = _fonts(text)
    for letter in missing:
        text = text.replace(letter, letter.encode("unicode_escape").decode())
    return text, {"parse_math": False, "usetex": False, "fontfamily": ["sans-serif", *fonts]}


def _fonts(text: str) -> tuple[list[str], set[str]]:
    """Names of installed fonts that have letters which the usual font lacks, and the letters that no font has."""
    missing = set(text) - _letters("sans-serif") - {"\n"}
    chosen = []
    for name in sorted({font.name for font in fontManager.ttflist}) if missing else ():
        # The font of last resort draws a box for every letter, which says less than the letter's escape.
        if not name.startswith("Last Resort") and missing & _letters(name):
            chosen.append(name)
            missing -= _letters(name)
    return chosen, missing


@cache
def _letters(font: str) -> frozenset[str]:
    return frozenset(map(chr, FT2Font(findfont(FontProperties(family=[font]))).get_charmap()))
