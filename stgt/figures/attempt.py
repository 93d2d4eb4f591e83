"""Draws pictures that accompany an answer. If a picture fails, the answer is still given."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

logger = logging.getLogger(__name__)


def try_to_draw(draw: Callable[[Path], None], out: Path) -> bool:
    """Draw a picture into a file, and return whether that succeeded. A failure logs a warning with its cause."""
    try:
        draw(out)
    except Exception as error:  # matplotlib, its fonts, decoders and the disk raise many kinds of errors
        logger.warning("the picture %s was not drawn: %s: %s", out, type(error).__name__, error)
        return False
    return True
