"""Translates saved configurations of version 0.1.0, as nested dicts of JSON values, into the present fields.

Values of wrong types are left as they are, and `from_dict` refuses them.
"""

from __future__ import annotations

_ALIGNMENTS = {"1": "vtc", "2": "csal"}
_WEIGHTS = {"vtc": "alignment_weight", "vtm": "vtm_weight", "vtg": "vtg_weight"}


def translated_run(values: dict) -> dict:
    """The values of a run with the present fields."""
    values = dict(values)
    if isinstance(model := values.get("model"), dict):
        values["model"] = translated_model(model)
    epochs = values.pop("csal_from", None)  # None left the loss as it was; CSAL replaced VTC from any other epoch on
    if epochs is not None:
        values["vtc_epochs"] = epochs
    if isinstance(loss := values.get("loss", {}), dict):
        loss = {_WEIGHTS.get(name, name): value for name, value in loss.items()}
        stage = 2 if epochs is not None else loss.get("stage")
        loss.pop("stage", None)
        values["loss"] = loss if stage is None else loss | {"alignment": _ALIGNMENTS.get(str(stage), stage)}
    return values


def translated_model(values: dict) -> dict:
    """The values of a model with the present fields.

    Version 0.1.0 wrote a head count and an MLP ratio for every tower, but open_clip's towers ignored them.
    """
    vision, graph = values.get("vision"), values.get("graph")
    old = isinstance(vision, dict) and isinstance(graph, dict) and "form" not in graph  # 0.1.0 had no such field
    if not old or vision.get("tower") == "vit":
        return values
    return values | {"vision": {k: v for k, v in vision.items() if k not in ("heads", "mlp_ratio")}}
