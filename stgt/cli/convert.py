"""`stgt convert`: it reads weights of any known kind, and writes a folder for `from_pretrained` or a released file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from stgt.cli.options import given, require_seed
from stgt.config import ModelConfig
from stgt.recipes import RECIPES

if TYPE_CHECKING:
    from stgt.data.text import Tokenizer
    from stgt.models.stgt import STGT
    from stgt.weights.pretrained import Training

RELEASED = RECIPES["finetune_msrvtt"]().model


def convert(
    inputs: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="FILE ...")],
    out: Path,
    model: ModelConfig = RELEASED,
    fresh: tuple[str, ...] = (),
    drop: tuple[str, ...] = (),
    seed: int | None = None,
) -> None:
    """Convert weights of other kinds to a folder for STGT.from_pretrained and --init, or to a released file.

    Args:
        inputs: Files that together hold one model: a released .pth, BLIP-2 of LAVIS or Hugging Face, eva_vit_g.pth or
            another vision tower. Or one folder: a run, or a folder that this command wrote.
        out: File or folder to write. A name that ends in .pth or .safetensors is a file with the released names, and
            any other name is a folder.
        model: Settings that the tensors do not show, such as heads and threshold. The numbers of frames, layers,
            queries and words come from the files. A folder has all settings, and none can be given with it.
        fresh: Beginnings of names that the files lack. These tensors keep their initial values. E.g. graph_cross_model.
        drop: Beginnings of names in the files to leave out.
        seed: Seed of the initial values of --fresh, 0 if not given.
    """
    from stgt.convert import convert_files
    from stgt.files import atomic_folder
    from stgt.ownership import owned
    from stgt.randomness import seed_everything
    from stgt.runs import save_tokenizer
    from stgt.terminal import say
    from stgt.weights.files import WEIGHT_FILES
    from stgt.weights.load import export_released
    from stgt.weights.pretrained import Training

    if not inputs:
        raise ValueError("no file to convert is given, expected at least one")
    if out.exists():
        raise ValueError(f"{out} exists already, expected the name of a new file or folder; remove it first")
    require_seed(seed)
    seed_everything(seed or 0)
    own = _own(inputs)
    if own is not None:
        options = given("--model.") or (["--model"] if model != RELEASED else [])
        options += [f"--{name}" for name, value in (("fresh", fresh), ("drop", drop)) if value]
        options += [] if seed is None else ["--seed"]
        if extra := [*map(str, inputs[1:]), *options]:
            raise ValueError(
                f"{inputs[0]} holds a whole model, expected no other file, and no option for settings or tensors: "
                f"{', '.join(extra)}"
            )
    converted, tokenizer, training = own or (convert_files(inputs, model, fresh=fresh, drop=drop), None, Training())
    if out.suffix in WEIGHT_FILES:
        export_released(converted, out)
    else:
        with owned(out, beside=True), atomic_folder(out) as partial:
            converted.save_pretrained(partial, training=training)
            if tokenizer is not None:
                save_tokenizer(tokenizer, partial / "tokenizer")
    numbers = sum(tensor.numel() for tensor in converted.state_dict().values())
    say(f"{out}: {numbers:,} numbers, {'with the' if converted.vision is not None else 'without a'} vision tower")


def _own(inputs: Sequence[Path]) -> tuple[STGT, Tokenizer | None, Training] | None:
    """The model of a folder that this package wrote, its tokenizer if it has one, and the facts about its training.

    Returns None for other inputs.
    """
    from stgt.models.stgt import STGT
    from stgt.runs import load_run, stored_tokenizer
    from stgt.weights import pretrained

    folder = inputs[0]
    if pretrained.is_pretrained(folder):
        model = STGT.from_pretrained(folder, tower=pretrained.has_tower(folder))
        tokenizer, training = stored_tokenizer(folder), pretrained.read_training(folder / pretrained.CONFIG)
    elif (folder / "checkpoints").is_dir():
        run = load_run(folder, "cpu")
        model, tokenizer, training = run.model, run.tokenizer, run.training
        if not isinstance(model, STGT):
            raise ValueError(
                f"{folder} holds a model that answers questions, expected a retrieval model; "
                "copy the folder of the run to share it"
            )
    else:
        return None
    return model, tokenizer, training
