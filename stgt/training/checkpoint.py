"""Checkpoints: a folder of safetensors and one JSON file, there in full or not at all. Nothing is ever pickled.

A checkpoint `RUN/checkpoints/step-00000500/` holds `model.safetensors` (every tensor of the model), whatever other
groups of tensors the trainer passes (`optimizer`, `random`), and `state.json`. It is written next to its place, forced
to the disk, and renamed; a crash, a signal or a full disk at any moment leaves the checkpoints before it as they were.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from stgt.config import differences, to_dict
from stgt.data.features import tower_hash
from stgt.files import atomic_folder, remove_folder, save_tensors, tensors_hash

TOWER, LANGUAGE = "vision.", "language."


class CheckpointError(RuntimeError):
    """A checkpoint that cannot be written, read, or used for this model."""


def checkpoints(run: Path) -> list[Path]:
    """The complete checkpoints of a run folder, oldest first."""
    return sorted(path for path in (run / "checkpoints").glob("step-*") if path.is_dir())


def latest_checkpoint(run: Path) -> Path:
    """The newest checkpoint of a run folder; raises CheckpointError if there is none."""
    if not (found := checkpoints(run)):
        raise CheckpointError(f"{run}: no checkpoint in it, expected checkpoints/step-…; was the run started?")
    return found[-1]


def chosen_checkpoint(run: Path) -> Path:
    """The checkpoint that was best on the validation split, the newest of a run without one."""
    latest = latest_checkpoint(run)
    best = read_state(latest).get("best")
    return latest if best is None else run / "checkpoints" / _name(best["step"])


def _name(step: int) -> str:
    return f"step-{step:08d}"


def write_checkpoint(
    run: Path, step: int, groups: dict[str, dict[str, torch.Tensor]], state: dict, *, keep: int
) -> Path:
    """Write `RUN/checkpoints/step-STEP` atomically and drop all but the newest `keep` checkpoints and the best one.

    Each group of tensors becomes `<group>.safetensors`, `state` (JSON values) `state.json`; the best one is that of
    `state["best"]["step"]`. Raises CheckpointError, with the earlier checkpoints intact, if the disk refuses.
    """
    folder = run / "checkpoints"
    final = folder / _name(step)
    best = state.get("best")
    if final.exists():
        return final
    try:
        with atomic_folder(final) as partial:
            for name, tensors in groups.items():
                save_tensors(partial / f"{name}.safetensors", tensors)
            (partial / "state.json").write_text(json.dumps(state, indent=1), "utf-8")
        for old in checkpoints(run)[:-keep]:
            if best is not None and old.name == _name(best["step"]):
                continue
            remove_folder(old)
    except OSError as error:
        intact = checkpoints(run)
        last = f"{intact[-1]} is intact" if intact else "there is no earlier one"
        raise CheckpointError(f"{error}; {last}") from error
    return final


def read_state(checkpoint: Path) -> dict:
    """What `write_checkpoint` was given as `state`."""
    try:
        return json.loads((checkpoint / "state.json").read_text())
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{checkpoint / 'state.json'}: cannot be read: {error}") from error


def read_tensors(checkpoint: Path, group: str) -> dict[str, torch.Tensor]:
    """One group of tensors, on the CPU."""
    path = checkpoint / f"{group}.safetensors"
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path}: cannot be read: {error}; remove its folder to use the one before") from error


def model_tensors(
    model: nn.Module, *, without_tower: bool = False, without_language: bool = False
) -> dict[str, torch.Tensor]:
    """Every tensor of the model by name, tied ones once (under the first of their names).

    without_language leaves out what is frozen of a language model.
    """
    tensors: dict[str, torch.Tensor] = {}
    referenced = _frozen_language(model) if without_language else {}
    seen = set()
    for name, tensor in model.state_dict().items():
        place = (tensor.data_ptr(), tensor.shape, tensor.stride())
        if tensor.numel() and place in seen:
            continue
        seen.add(place)
        if not (without_tower and name.startswith(TOWER)) and name not in referenced:
            tensors[name] = tensor
    return tensors


def load_model(model: nn.Module, checkpoint: Path) -> None:
    """Put a checkpoint's weights into the model.

    Raises CheckpointError naming the settings that differ and the tensors that only one of the two has or whose shapes
    differ; and if the pretrained tower or language model that the checkpoint refers to has other weights here.
    """
    state = read_state(checkpoint)
    tower, language = state["tower"], state.get("language")
    tensors = read_tensors(checkpoint, "model")
    expected = model_tensors(model, without_tower=tower is not None, without_language=language is not None)
    problems = [f"{name} is missing" for name in expected.keys() - tensors.keys()]
    problems += [f"{name} is unknown to this model" for name in tensors.keys() - expected.keys()]
    problems += [
        f"{name} has shape {tuple(tensors[name].shape)}, here {tuple(expected[name].shape)}"
        for name in expected.keys() & tensors.keys()
        if tensors[name].shape != expected[name].shape
    ]
    if problems:
        settings = differences(to_dict(model.config), state["config"]["model"], "model.")
        more = [f"and {len(problems) - 12} tensors more"] if len(problems) > 12 else []
        shown = "\n  ".join([*settings, *sorted(problems)[:12], *more])
        raise CheckpointError(f"{checkpoint}: a checkpoint of another model:\n  {shown}")
    if tower is not None and (here := tower_hash(model.vision.state_dict(), model.config.vision)) != tower["sha256"]:
        raise CheckpointError(
            f"{checkpoint}: was trained on {tower['tower']} ({tower['pretrained']}) with weights "
            f"{tower['sha256'][:12]}…, but the tower here has {here[:12]}…"
        )
    if language is not None and (here := tensors_hash(_frozen_language(model))) != language["sha256"]:
        raise CheckpointError(
            f"{checkpoint}: was trained on the language model {language['model']} with weights "
            f"{language['sha256'][:12]}…, but {model.config.language.model} here has {here[:12]}…"
        )
    with torch.no_grad():
        for name, tensor in expected.items():
            tensor.copy_(tensors[name])


def optimizer_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """The optimizer's state, each tensor under "parameter:key"."""
    return {
        f"{name}:{key}": value
        for name, p in model.named_parameters()
        for key, value in optimizer.state.get(p, {}).items()
    }


def load_optimizer(model: nn.Module, optimizer: torch.optim.Optimizer, checkpoint: Path) -> None:
    """Put a checkpoint's optimizer state into an optimizer over the same model."""
    parameters = dict(model.named_parameters())
    for full, value in read_tensors(checkpoint, "optimizer").items():
        name, key = full.rsplit(":", 1)
        # AdamW keeps its step counts on the CPU.
        optimizer.state[parameters[name]][key] = value if key == "step" else value.to(parameters[name].device)


def tower_reference(model: nn.Module) -> dict | None:
    """How a checkpoint names a tower it does not store: only one that is frozen and that open_clip can fetch again."""
    vision = model.config.vision
    if vision.pretrained is None or vision.open_blocks != 0 or Path(vision.pretrained).exists():
        return None
    sha256 = tower_hash(model.vision.state_dict(), vision)
    return {"tower": vision.tower, "pretrained": vision.pretrained, "sha256": sha256}


def language_reference(model: nn.Module) -> dict | None:
    """How a checkpoint names the frozen weights of a pretrained language model, which it does not store."""
    config = model.config.language
    if config is None or config.model == "opt" or config.tune == "all":
        return None
    return {"model": config.model, "sha256": tensors_hash(_frozen_language(model))}


def _frozen_language(model: nn.Module) -> dict[str, torch.Tensor]:
    """The tensors of a language model that training leaves as they are."""
    tensors = {f"{LANGUAGE}{name}": tensor for name, tensor in model.language.state_dict(keep_vars=True).items()}
    return {name: tensor.detach() for name, tensor in tensors.items() if not tensor.requires_grad}
