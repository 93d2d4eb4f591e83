"""Compares settings that no tensor shows with the config.json beside Hugging Face's BLIP-2."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from stgt.config import ModelConfig
from stgt.structure import field, read_json, shown
from stgt.weights.files import Source
from stgt.weights.load import TOWER, MisfitError

# The value that transformers takes where config.json does not have one, which is BLIP-2's own.
_OWN = {
    "vision_config": {"num_attention_heads": 16, "layer_norm_eps": 1e-6, "hidden_act": "gelu"},
    "qformer_config": {"num_attention_heads": 12, "layer_norm_eps": 1e-12, "hidden_act": "gelu"},
}


def require_settings(folder: Path, config: ModelConfig, sources: Mapping[str, Source]) -> None:
    """Raise MisfitError if a folder's config.json says that its weights belong to a network that computes otherwise.

    config: the configuration of the model that is to get the weights. sources: its tensors by our names. Other files
    than a config.json of BLIP-2 are not looked at. The tower is compared if its tensors are the folder's.
    """
    file = folder / "config.json"
    if not file.is_file():
        return
    parts = read_json(file, dict)
    has_tower = any(name.startswith(TOWER) and source.file == folder for name, source in sources.items())
    heads = {"vision_config": config.vision.sizes.heads, "qformer_config": config.qformer.heads}
    options = {"vision_config": "--model.vision.heads", "qformer_config": "--model.qformer.heads"}
    for part, own in _OWN.items():
        if part not in parts or (part == "vision_config" and not has_tower):
            continue
        values = field(parts, part, dict, str(file))
        for name, ours in (own | {"num_attention_heads": heads[part]}).items():
            theirs = values.get(name, own[name])
            if theirs != ours:
                hint = f"; {options[part]} sets it" if name == "num_attention_heads" else ""
                raise MisfitError(f"{file}: {part}.{name} is {shown(theirs)}, but the model has {shown(ours)}{hint}")
