"""Pictures that go with an answer: the answer counts, whatever becomes of its picture."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

logger = logging.getLogger(__name__)


def try_to_draw(draw: Callable[[Path], None], out: Path) -> bool:
    """Draw a picture into a file and tell whether that succeeded; a failure is a warning with its cause."""
    try:
        draw(out)
    except Exception as error:  # matplotlib, its fonts, decoders and the disk have errors of many kinds
        logger.warning("the picture %s was not drawn: %s: %s", out, type(error).__name__, error)
        return False
    return True
