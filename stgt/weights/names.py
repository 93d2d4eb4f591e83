"""The names of our tensors in other checkpoints: STGT's releases, BLIP-2 of LAVIS or Hugging Face, and vision towers.

A naming is a table of pairs of beginnings of names (or whole names), ours and theirs. It is read in both directions,
and the first row that matches decides. "#" stands for a number.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Collection
from dataclasses import dataclass

_HEADS = tuple((name, name) for name in ("ln_vision.", "vision_proj.", "text_proj.", "itm_head.", "temp"))
_GRAPH = "graph.blocks.#.", "graph_cross_model.resblocks.#."
_BERT = "qformer.bert.encoder.layer.#.", "Qformer.bert.encoder.layer.#."
_VIT = "vision.tower.blocks.#.", "vision_model.encoder.layers.#."


def _inside(parts: tuple[str, str], *rows: tuple[str, str]) -> tuple[tuple[str, str], ...]:
    return tuple((parts[0] + ours, parts[1] + theirs) for ours, theirs in rows)


@dataclass(frozen=True)
class Naming:
    """One kind of checkpoint: its title, its table of names, and the beginnings of names that STGT does not use."""

    title: str
    rows: tuple[tuple[str, str], ...]
    unused: tuple[str, ...] = ()

    def ours(self, name: str) -> str | None:
        """Our name for one of their tensors, or None if this kind has no such tensor."""
        return _substitute(name, tuple((theirs, ours) for ours, theirs in self.rows))

    def theirs(self, name: str) -> str:
        """Their name for one of our tensors, or the released name if this kind does not have the tensor's part."""
        return _substitute(name, self.rows) or _substitute(name, RELEASED.rows) or name


RELEASED = Naming(
    "STGT's or LAVIS's BLIP-2",
    (
        ("vision.tower.", "visual_encoder."),
        ("graph.position.temporal", "graph_cross_model.time_embed"),
        ("graph.position.spatial", "graph_cross_model.pos_2D_embed"),
        *_inside(
            _GRAPH,
            ("proj.", "proj_fc."),
            ("cls_block.", "message_attn."),
            ("graph_attention.q_proj.", "graphattn.W_Q."),
            ("graph_attention.k_proj.", "graphattn.W_K."),
            ("graph_attention.v_proj.", "graphattn.W_V."),
            ("graph_attention.out_proj.", "graphattn.W_O."),
            ("motion.", "motion."),
            ("residual_block.", ""),
        ),
        ("graph.", "graph_cross_model."),
        ("qformer.query_tokens", "query_tokens"),
        ("qformer.bert.layernorm.", "Qformer.bert.embeddings.LayerNorm."),
        ("qformer.embeddings.", "Qformer.bert.embeddings."),
        *_inside(
            _BERT,
            ("attention.attention.", "attention.self."),
            ("crossattention.attention.", "crossattention.self."),
            ("", ""),
        ),
        ("qformer.word_head.bias", "Qformer.cls.predictions.bias"),
        ("qformer.word_head.dense.", "Qformer.cls.predictions.transform.dense."),
        ("qformer.word_head.layernorm.", "Qformer.cls.predictions.transform.LayerNorm."),
        *_HEADS,
    ),
    # The language models of LAVIS's second stage, and the projections to them.
    unused=("opt_model.", "opt_proj.", "t5_model.", "t5_proj.", "llm_model.", "llm_proj."),
)

HUGGING_FACE = Naming(
    "Hugging Face's BLIP-2",
    (
        ("vision.tower.cls_token", "vision_model.embeddings.class_embedding"),
        ("vision.tower.pos_embed", "vision_model.embeddings.position_embedding"),
        ("vision.tower.patch_embed.proj.", "vision_model.embeddings.patch_embedding."),
        *_inside(
            _VIT,
            ("norm1.", "layer_norm1."),
            ("attn.proj.", "self_attn.projection."),
            ("attn.", "self_attn."),
            ("norm2.", "layer_norm2."),
            ("", ""),
        ),
        ("ln_vision.", "vision_model.post_layernorm."),
        ("qformer.query_tokens", "query_tokens"),
        ("qformer.embeddings.", "embeddings."),
        ("qformer.bert.", "qformer."),
        ("vision_proj.", "vision_projection."),
        ("text_proj.", "text_projection."),
        ("itm_head.", "itm_head."),
    ),
    unused=("language_model.", "language_projection.", "embeddings.position_ids"),
)

OURS = Naming("this package's", tuple((name, name) for name in ("vision.tower.", "graph.", "qformer.")) + _HEADS)

# The first block of EVA-CLIP and timm, and of open_clip. Then the other parts of a CLIP model.
_FIRST_BLOCKS = ("blocks.0.", "transformer.resblocks.0.")
_CLIP_REST = ("text.", "transformer.", "token_embedding.", "positional_embedding", "ln_final.", "text_projection")
_CLIP_REST += ("logit_scale", "logit_bias", "attn_mask", "visual.head.")


def recognise(names: Collection[str]) -> Naming:
    """The naming that a checkpoint's names follow. Raises ValueError if the names follow none of the known namings."""

    def has(*beginnings: str) -> bool:
        return any(name.startswith(beginnings) for name in names)

    if has("vision.tower.", "graph.", "qformer.query_tokens"):
        return OURS
    if has("vision_model.", "qformer."):
        return HUGGING_FACE
    if has("Qformer.", "graph_cross_model.", "visual_encoder."):
        return RELEASED
    for prefix in ("visual.trunk.", "visual.", ""):
        if has(*(prefix + block for block in _FIRST_BLOCKS)):
            return Naming("a vision tower's", (("vision.tower.", prefix),), _CLIP_REST if prefix else ())
    first = ", ".join(sorted(names)[:3])
    raise ValueError(
        f"has {len(names)} names of no known kind ({first}, …), expected those of STGT, of BLIP-2 as LAVIS or Hugging "
        "Face have it (Qformer.*, qformer.*), or of a vision tower (blocks.*, visual.*)"
    )


def released_name(name: str) -> str:
    """The released checkpoints' name for one of our tensors."""
    return RELEASED.theirs(name)


def _substitute(name: str, rows: tuple[tuple[str, str], ...]) -> str | None:
    for old, new in rows:
        if match := _pattern(old).match(name):
            return new.replace("#", match[1] if match.lastindex else "#") + name[match.end() :]
    return None


@functools.cache
def _pattern(beginning: str) -> re.Pattern:
    """A pattern for an entry of a table. An entry that is empty or ends with a dot is a beginning, or else a name."""
    end = "" if beginning.endswith(".") or not beginning else "$"
    return re.compile(re.escape(beginning).replace(r"\#", r"(\d+)") + end)
