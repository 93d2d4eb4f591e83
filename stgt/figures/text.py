"""Text from files in pictures: it appears as it is, whatever signs and letters it has."""

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
    """The text and the style with which `$` is no mathematics and nothing runs TeX.

    Letters that the usual font lacks come from another installed font, or appear as escapes, e.g. \\u65e5, if none
    has them. So do control characters.
    """
    text = "\n".join(map(printable, lines))
    fonts, missing = _fonts(text)
    for letter in missing:
        text = text.replace(letter, letter.encode("unicode_escape").decode())
    return text, {"parse_math": False, "usetex": False, "fontfamily": ["sans-serif", *fonts]}


def _fonts(text: str) -> tuple[list[str], set[str]]:
    """Names of installed fonts that have what the usual font lacks, and the letters that none of them has."""
    missing = set(text) - _letters("sans-serif") - {"\n"}
    chosen = []
    for name in sorted({font.name for font in fontManager.ttflist}) if missing else ():
        # The font of last resort has a box for every letter, which tells less than the letter's number.
        if not name.startswith("Last Resort") and missing & _letters(name):
            chosen.append(name)
            missing -= _letters(name)
    return chosen, missing


@cache
def _letters(font: str) -> frozenset[str]:
    return frozenset(map(chr, FT2Font(findfont(FontProperties(family=[font]))).get_charmap()))
