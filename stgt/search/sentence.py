"""The check of a text that is searched for."""

from __future__ import annotations


def require_sentence(text: object) -> None:
    """Raise ValueError unless this is a text with more than white space."""
    if not isinstance(text, str) or not text.strip():
        raise ValueError(f"the text to search for is {text!r}, expected a sentence or a word")
