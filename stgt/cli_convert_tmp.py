"""What `stgt convert` does: weights of any known kind in, a folder for `from_pretrained` or a released file out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from stgt.config import ModelConfig
from stgt.convert import convert_files
from stgt.data.text import Tokenizer
from stgt.files import atomic_folder
from stgt.models.stgt import STGT
from stgt.ownership import owned
from stgt.randomness import seed_everything
from stgt.runs import load_run, save_tokenizer
from stgt.terminal import say
from stgt.weights import pretrained
from stgt.weights.files import WEIGHT_FILES
from stgt.weights.load import export_released


def convert(
    inputs: Sequence[Path], out: Path, model: ModelConfig, fresh: Sequence[str], drop: Sequence[str], seed: int
) -> None:
    """See `stgt convert --help`."""
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
