"""STGT: video-language alignment with a spatio-temporal graph transformer, trained and evaluated end to end."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from stgt.extras import naming_the_extra

if TYPE_CHECKING:
    from stgt.retriever import Retriever
    from stgt.search.index import Index

__all__ = ["Index", "load"]


def __getattr__(name: str) -> object:
    # The import is here so that `import stgt` takes no time.
    if name == "Index":
        with naming_the_extra():
            from stgt.search.index import Index

        return Index
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def load(name: str | Path, *, device: str = "auto", tokenizer: str | None = None) -> Retriever:
    """A trained retrieval model, ready to embed videos and texts and to compare them.

    name: a run's folder, a folder that `stgt convert` or `save_pretrained` wrote, or a model on the Hugging Face hub.
    device: "auto" is a GPU where there is one.
    tokenizer: the tokenizer's folder or its name on the hub, for models that come without one.
    Raises ValueError, OSError or CheckpointError if there is no such model; the message says what was expected.
    Raises ModuleNotFoundError if a package of the extra [search] is not installed; the message says what to install.
    """
    # The import is here so that `import stgt` takes no time.
    with naming_the_extra():
        from stgt.retriever import Retriever

    return Retriever(name, device=device, tokenizer=tokenizer)
