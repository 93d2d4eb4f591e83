"""`stgt convert`: weights of any known kind in, a folder for `from_pretrained` or a released file out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

from stgt.config import ModelConfig
from stgt.recipes import RECIPES

if TYPE_CHECKING:
    from stgt.data.text import Tokenizer
    from stgt.models.stgt import STGT

RELEASED = RECIPES["finetune_msrvtt"]().model


def convert(
    inputs: tyro.conf.Positional[tuple[Path, ...]],
    out: Path,
    model: ModelConfig = RELEASED,
    fresh: tuple[str, ...] = (),
    drop: tuple[str, ...] = (),
    seed: int = 0,
) -> None:
    """Turn weights of other kinds into a folder for STGT.from_pretrained and --init, or back into a released file.

    Args:
        inputs: A released .pth; BLIP-2 as LAVIS or Hugging Face have it; eva_vit_g.pth or another vision tower. What
            they hold together is one model. Or a folder of ours: a run's, or one that this command wrote.
        out: What to write: .pth or .safetensors for a file with the released names, anything else for a folder.
        model: What no tensor tells, such as heads and threshold; frames, layers, queries and words are the files'.
        fresh: Beginnings of names that the files lack and that stay as initialised, e.g. graph_cross_model.
        drop: Beginnings of names in the files to leave out.
        seed: Decides what --fresh is initialised to.
    """
    from stgt.convert import convert_files
    from stgt.files import atomic_folder
    from stgt.ownership import owned
    from stgt.randomness import seed_everything
    from stgt.runs import save_tokenizer
    from stgt.terminal import say
    from stgt.weights.files import WEIGHT_FILES
    from stgt.weights.load import export_released

    if not inputs:
        raise ValueError("no file to convert is given, expected at least one")
    if out.exists():
        raise ValueError(f"{out} exists, expected a name for what is to be written; remove it first")
    seed_everything(seed)
    converted, tokenizer = _own(inputs, fresh, drop) or (convert_files(inputs, model, fresh=fresh, drop=drop), None)
    if out.suffix in WEIGHT_FILES:
        export_released(converted, out)
    else:
        with owned(out, beside=True), atomic_folder(out) as partial:
            converted.save_pretrained(partial)
            if tokenizer is not None:
                save_tokenizer(tokenizer, partial / "tokenizer")
    numbers = sum(tensor.numel() for tensor in converted.state_dict().values())
    say(f"{out}: {numbers:,} numbers, {'with the' if converted.vision is not None else 'without a'} vision tower")


def _own(inputs: Sequence[Path], fresh: Sequence[str], drop: Sequence[str]) -> tuple[STGT, Tokenizer | None] | None:
    """The model of a folder that this package wrote, and a run's tokenizer; None for anything else."""
    from stgt.models.stgt import STGT
    from stgt.runs import load_run
    from stgt.weights import pretrained

    folder, tokenizer = inputs[0], None
    if pretrained.is_pretrained(folder):
        model = STGT.from_pretrained(folder, tower=pretrained.has_tower(folder))
    elif (folder / "checkpoints").is_dir():
        _, model, tokenizer, _ = load_run(folder, "cpu")
        if not isinstance(model, STGT):
            raise ValueError(f"{folder} holds a {type(model).__name__}, expected a retrieval model")
    else:
        return None
    if len(inputs) > 1 or fresh or drop:
        raise ValueError(f"{folder} is a whole model, expected no other file, and neither --fresh nor --drop")
    return model, tokenizer
