"""Makes a model from weight files of other kinds. The files determine the sizes, and the caller the other settings."""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from stgt.config import ModelConfig
from stgt.models.stgt import STGT
from stgt.weights.files import Source, read_weights
from stgt.weights.load import SPATIAL, TIME, TOWER, WORDS, MisfitError, load_weights
from stgt.weights.names import released_name
from stgt.weights.settings import require_settings

logger = logging.getLogger(__name__)

# The size of BERT's vocabulary before [DEC] is added.
BERT_WORDS = 30522

# A field's value is the size of a dimension of a tensor, or the number of layers in the tensors' names. If there is a
# gap between the numbers of layers, some names are left over, and loading refuses them.
_SIZES = {
    "graph.frames": (TIME, 0),
    "qformer.queries": ("qformer.query_tokens", 1),
    "qformer.hidden": ("qformer.query_tokens", 2),
    "qformer.intermediate": ("qformer.bert.encoder.layer.0.intermediate_query.dense.weight", 0),
    "qformer.vocab_size": (WORDS, 0),
    "qformer.max_positions": ("qformer.embeddings.position_embeddings.weight", 0),
    "qformer.embed_dim": ("vision_proj.weight", 0),
}
_LAYERS = {
    "graph.layers": re.compile(r"graph\.blocks\.(\d+)\."),
    "qformer.layers": re.compile(r"qformer\.bert\.encoder\.layer\.(\d+)\."),
}
_CROSSED = re.compile(r"qformer\.bert\.encoder\.layer\.(\d+)\.crossattention\.")


def convert_files(
    files: Sequence[str | Path],
    config: ModelConfig,
    *,
    fresh: Collection[str] = (),
    drop: Collection[str] = (),
) -> STGT:
    """Make one model from weight files: released STGT, BLIP-2 of LAVIS or Hugging Face, or vision towers.

    config: the settings that no tensor shows, such as the tower, heads, threshold and dropout. The numbers of frames
    and graph blocks and the Q-Former's sizes come from the files. A vocabulary with BERT's 30522 words gets [DEC] as
    word 30523. If the files have no tower, the model has none (`tower=False`).
    fresh: beginnings of names that the files lack; these tensors keep their initial values.
    drop: beginnings of names in the files to leave out.
    Raises ValueError, which names each tensor, if another tensor is missing or a tensor is left over, and if the
    config.json in a folder of Hugging Face's BLIP-2 has other numbers of heads than `config`.
    """
    weights = read_weights(files, drop=drop)
    config = fit_config(config, weights.sources)
    for file in weights.files:
        require_settings(file, config, weights.sources)
    tower = any(name.startswith(TOWER) for name in weights.sources)
    if tower:
        config = replace(config, vision=replace(config.vision, pretrained=None))
    model = STGT(config, tower=tower)
    try:
        absent = load_weights(model, weights, allow_missing=(released_name(SPATIAL), *fresh))
    except MisfitError as error:
        hint = "--fresh NAME keeps initial values where a name begins with NAME, --drop NAME ignores it in the files"
        raise MisfitError(f"{error}\n  ({hint})") from None
    if vain := [group for group in fresh if group not in absent]:
        raise ValueError(f"fresh is {vain[0]!r}, but {weights} has such tensors, or the model has none")
    return model


def fit_config(config: ModelConfig, sources: Mapping[str, Source]) -> ModelConfig:
    """The configuration with the sizes that the tensors show; all other fields stay. sources: tensors by our names."""
    sizes = {}
    for field, (name, dimension) in _SIZES.items():
        if name in sources and sources[name].tensor.ndim > dimension:
            sizes[field] = sources[name].tensor.shape[dimension]
    for field, pattern in _LAYERS.items():
        if numbers := _numbers(pattern, sources):
            sizes[field] = len(numbers)
    crossed = _numbers(_CROSSED, sources)
    if crossed:
        # If only the first layer has a cross-attention, the next one would come after the last layer.
        sizes["qformer.cross_frequency"] = crossed[1] - crossed[0] if len(crossed) > 1 else sizes["qformer.layers"]
    if words := sizes.get("qformer.vocab_size"):
        sizes["qformer.vocab_size"] = words = words + (words == BERT_WORDS)
        sizes["qformer.bos_token_id"] = words - 1
    if positions := sizes.get("qformer.max_positions"):
        sizes["qformer.max_text_length"] = min(config.qformer.max_text_length, positions)

    parts: dict[str, dict[str, int]] = {"graph": {}, "qformer": {}}
    for field, size in sizes.items():
        part, name = field.split(".")
        parts[part][name] = size
        if size != (configured := getattr(getattr(config, part), name)):
            logger.info("%s is %d as in the files, not %d", field, size, configured)
    return replace(config, **{part: replace(getattr(config, part), **fields) for part, fields in parts.items()})


def _numbers(pattern: re.Pattern, names: Collection[str]) -> list[int]:
    """The numbers of layers in the names, in order. Numbers with five digits or more are not numbers of layers."""
    found = {match[1] for match in map(pattern.match, names) if match}
    return sorted(int(number) for number in found if len(number) < 5)
