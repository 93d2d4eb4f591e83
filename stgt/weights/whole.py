"""Loads models of transformers, and refuses files that do not hold all of a model.

transformers gives random values to parameters that the files lack, and goes on with a warning.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from stgt.weights.files import summary


def load_whole(model_class: Any, name: str | Path, **options: Any) -> Any:
    """`model_class.from_pretrained(name, **options)`, where every parameter comes from the files.

    model_class: a class of models of transformers, or one of its Auto classes. Buffers, which models compute
    themselves, may be missing. Raises ValueError, which names the parameters, if the files lack some.
    """
    model, found = model_class.from_pretrained(name, output_loading_info=True, **options)
    parameters = {parameter for parameter, _ in model.named_parameters()}
    if missing := parameters & set(found["missing_keys"]):
        raise ValueError(
            f"{name} lacks {len(missing)} parameters of {type(model).__name__}, which would be random, expected all of "
            f"them: {summary(missing, parameters - missing)}"
        )
    return model
