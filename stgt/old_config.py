"""Translates saved configurations of version 0.1.0, as nested dicts of JSON values, into the present fields."""

from __future__ import annotations

_ALIGNMENTS = {"1": "vtc", "2": "csal"}
_WEIGHTS = {"vtc": "alignment_weight", "vtm": "vtm_weight", "vtg": "vtg_weight"}


def translated(values: object) -> object:
    """The values of a run with the present fields. Values of wrong types are kept, and `from_dict` refuses them."""
    if not isinstance(values, dict):
        return values
    values = dict(values)
    epochs = values.pop("csal_from", None)  # None left the loss as it was; CSAL replaced VTC from any other epoch on
    if epochs is not None:
        values["vtc_epochs"] = epochs
    if isinstance(loss := values.get("loss", {}), dict) and (loss or epochs is not None):
        loss = {_WEIGHTS.get(name, name): value for name, value in loss.items()}
        stage = 2 if epochs is not None else loss.get("stage")
        loss.pop("stage", None)
        values["loss"] = loss if stage is None else loss | {"alignment": _ALIGNMENTS.get(str(stage), stage)}
    return values
