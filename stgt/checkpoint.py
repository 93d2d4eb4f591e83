"""Checkpoints of a run: folders of safetensors and one JSON file, which are complete or absent. Nothing is pickled.

A checkpoint `RUN/checkpoints/step-00000500/` holds `model.safetensors` (every tensor of the model), a file for each
other group of tensors that the trainer passes (`optimizer`, `random`), and `state.json`, which has the checksums of all
these files and of itself. It is written under another name, forced to the disk, and renamed. A crash, a signal or a
full disk at any moment does not change the checkpoints before it.

A folder that is not named after a step, or that lacks `state.json` or `model.safetensors`, is not a checkpoint. It is
passed over with a warning, and never removed. A damaged checkpoint is refused when it is read, and never removed. A run
goes on from an older checkpoint only if its user removes the damaged one.
"""

from __future__ import annotations

import functools
import logging
import re
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from stgt.config import ModelConfig, differences, from_dict, to_dict
from stgt.files import atomic_folder, file_hash, remove_folder, save_tensors, tensors_hash, write_text
from stgt.integrity import DamagedError, nonfinite, read_sealed, require_hash, sealed
from stgt.randomness import random_state, restore_random_state
from stgt.structure import field
from stgt.weights.tower import tower_hash

logger = logging.getLogger(__name__)

TOWER, LANGUAGE = "vision.", "language."
STATE, MODEL = "state.json", "model.safetensors"
FORMAT = 2
"""The version of a checkpoint's format, in state.json. Checkpoints of stgt 0.1.0 have neither it nor checksums"""
_FIELDS = {"step": int, "world": int, "global_batch": int, "replaced": int, "scaler": dict, "config": dict}
_MOMENTS = ("exp_avg", "exp_avg_sq")
_IDLE = "idle"


class CheckpointError(RuntimeError):
    """A checkpoint that cannot be written, read, or used for this model."""


def checkpoints(run: Path) -> list[Path]:
    """The checkpoints of a run folder, oldest first, recognised by names and files. Their contents are not read."""
    return sorted((path for path, reason in _candidates(run) if reason is None), key=_step)


def newest_checkpoint(run: Path) -> Path | None:
    """The newest checkpoint of a run folder, or None. Folders that only look like checkpoints get a warning."""
    for path, reason in _candidates(run):
        if reason is not None:
            logger.warning("%s is not a checkpoint and is passed over: %s", path, reason)
    return found[-1] if (found := checkpoints(run)) else None


def latest_checkpoint(run: Path) -> Path:
    """The newest checkpoint of a run folder. Raises CheckpointError if there is none."""
    if (found := newest_checkpoint(run)) is None:
        raise CheckpointError(f"{run}: there is no checkpoint in it, expected checkpoints/step-…; was the run started?")
    return found


def chosen_checkpoint(run: Path) -> Path:
    """The checkpoint that was best on the validation split. In a run without validation it is the newest one."""
    latest = latest_checkpoint(run)
    best = read_state(latest).get("best")
    if best is None:
        return latest
    chosen = run / "checkpoints" / _name(best["step"])
    if chosen not in checkpoints(run):
        raise CheckpointError(f"{chosen}: there is no such checkpoint, but {latest} says that it is the best one")
    return chosen


def _name(step: int) -> str:
    return f"step-{step:08d}"


def _step(checkpoint: Path) -> int | None:
    """The step in a checkpoint's name, or None for other names."""
    digits = re.fullmatch(r"step-([0-9]{8,18})", checkpoint.name)
    return int(digits[1]) if digits and _name(int(digits[1])) == checkpoint.name else None


def _candidates(run: Path) -> Iterator[tuple[Path, str | None]]:
    """The paths in a run folder that are named step-…, each with the reason why it is not a checkpoint, or None."""
    for path in sorted((run / "checkpoints").glob("step-*")):
        missing = [name for name in (STATE, MODEL) if not (path / name).is_file()]
        if _step(path) is None:
            yield path, "its name is not step- and eight digits"
        elif not path.is_dir():
            yield path, "it is not a folder"
        else:
            yield path, f"it has no {missing[0]}" if missing else None


def require_free_names(run: Path, first: int, last: int) -> None:
    """Raise CheckpointError if a path that is not a checkpoint has the name that one of these steps will need."""
    for path, reason in _candidates(run):
        if reason is not None and (step := _step(path)) is not None and first <= step <= last:
            raise CheckpointError(
                f"{path} is not a checkpoint: {reason}; the run cannot go on until it is moved away, "
                f"because the checkpoint of step {step} needs its name"
            )


def write_checkpoint(
    run: Path, step: int, groups: dict[str, dict[str, torch.Tensor]], state: dict, *, keep: int
) -> Path:
    """Write `RUN/checkpoints/step-STEP` atomically, and remove all but the newest `keep` checkpoints and the best one.

    Each group of tensors becomes `<group>.safetensors`, and `state` (JSON values) becomes `state.json`. The best one
    has the step `state["best"]["step"]`. Raises CheckpointError, with the earlier checkpoints intact, if this fails.
    """
    final = run / "checkpoints" / _name(step)
    if final in checkpoints(run):
        read_state(final)
        return final
    try:
        with atomic_folder(final) as partial:
            for name, tensors in groups.items():
                save_tensors(partial / f"{name}.safetensors", tensors)
            hashes = {path.name: file_hash(path) for path in sorted(partial.iterdir())}
            (partial / STATE).write_text(sealed({"format": FORMAT, "files": hashes, **state}), "utf-8")
        best = state.get("best")
        _rotate(run, keep, {final, *([] if best is None else [final.with_name(_name(best["step"]))])})
    except OSError as error:
        intact = checkpoints(run)
        last = f"{intact[-1]} is intact" if intact else "there is no earlier one"
        raise CheckpointError(f"{error}; {last}") from error
    return final


def _rotate(run: Path, keep: int, needed: set[Path]) -> None:
    """Remove checkpoints, except the newest `keep`, those in `needed`, and those that cannot be read."""
    readable = []
    for path in checkpoints(run):
        try:
            read_state(path)
            readable.append(path)
        except CheckpointError as error:
            logger.warning("%s; it is kept", error)
    for old in readable[:-keep]:
        if old not in needed and not old.is_symlink():
            remove_folder(old)


def read_state(checkpoint: Path) -> dict:
    """The `state` that `write_checkpoint` was given. Raises CheckpointError if one byte of its file has changed."""
    return _read_state(checkpoint)[0]


def update_state(checkpoint: Path, **values: object) -> None:
    """Replace some values of a checkpoint's state atomically. Raises OSError if the disk cannot be written."""
    state, hashes = _read_state(checkpoint)
    write_text(checkpoint / STATE, sealed({"format": FORMAT, "files": hashes, **state, **values}))


def read_tensors(checkpoint: Path, group: str) -> dict[str, torch.Tensor]:
    """One group of tensors, on the CPU. Raises CheckpointError if one byte of its file was changed."""
    path = checkpoint / f"{group}.safetensors"
    hashes = _read_state(checkpoint)[1]
    try:
        if hashes is not None:
            require_hash(path, hashes[path.name])
        return load_file(path)
    except (OSError, SafetensorError, KeyError, DamagedError) as error:
        raise _unreadable(path, error) from error


def _read_state(checkpoint: Path) -> tuple[dict, dict[str, str] | None]:
    """A checkpoint's state and the SHA-256 of its files. The latter is None in checkpoints of version 0.1.0."""
    path = checkpoint / STATE
    try:
        state, has_checksum = read_sealed(path)
    except (OSError, DamagedError) as error:
        raise _unreadable(path, error) from error
    version, hashes = state.pop("format", None), state.pop("files", None)
    if has_checksum and version != FORMAT:
        raise CheckpointError(f"{path}: has format {version!r}, expected {FORMAT}: another version of stgt wrote it")
    if not has_checksum and version is not None:
        raise _unreadable(path, DamagedError(f"{path}: its own checksum is missing, so the file was damaged"))
    if not has_checksum:
        _warn_of_no_checksums(checkpoint)
    _require_fields(state, path)
    expected = _step(checkpoint)
    if expected is not None and state.get("step", expected) != expected:
        raise CheckpointError(f"{path}: 'step' is {state['step']!r}, expected {expected}, as in the name of its folder")
    return state, hashes


def _require_fields(state: dict, path: Path) -> None:
    """Raise CheckpointError for values of other types than those that `write_checkpoint` writes."""
    parts = {"best": {"step": int}, "tower": {"tower": str, "sha256": str}, "language": {"model": str, "sha256": str}}
    try:
        for name, kind in _FIELDS.items():
            if name in state or name in ("step", "config"):
                field(state, name, kind, str(path))
        field(state["config"], "model", dict, f"{path}: config")
        for name, kinds in parts.items():
            if state.get(name) is not None:
                part = field(state, name, dict, str(path))
                for key, kind in kinds.items():
                    field(part, key, kind, f"{path}: {name}")
    except ValueError as error:
        raise CheckpointError(str(error)) from None


def _has_checksums(checkpoint: Path) -> bool:
    return _read_state(checkpoint)[1] is not None


def _unreadable(path: Path, error: Exception) -> CheckpointError:
    reason = str(error).removeprefix(f"{path}: ")
    return CheckpointError(f"{path}: cannot be read: {reason}; remove its folder to use the checkpoint before it")


@functools.cache
def _warn_of_no_checksums(checkpoint: Path) -> None:
    logger.warning("%s was written by version 0.1.0, without checksums: damage to it may go unnoticed", checkpoint)


def model_tensors(
    model: nn.Module, *, without_tower: bool = False, without_language: bool = False
) -> dict[str, torch.Tensor]:
    """Every tensor of the model by name. Tied tensors occur once, under the first of their names.

    without_language: leave out the frozen tensors of a language model.
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


def load_model(model: nn.Module, checkpoint: Path, *, convert: bool = False) -> None:
    """Copy a checkpoint's weights into the model.

    convert: whether weights of another dtype are converted to the model's dtype.
    Raises CheckpointError if a tensor is missing, unknown or not finite, or has another shape or dtype; the message
    lists these tensors and the settings that differ. Raises CheckpointError as well if the pretrained tower or language
    model that the checkpoint refers to has other weights here.
    """
    state = read_state(checkpoint)
    tower, language = state.get("tower"), state.get("language")
    tensors = read_tensors(checkpoint, "model")
    expected = model_tensors(model, without_tower=tower is not None, without_language=language is not None)
    problems = [f"{name} is missing" for name in expected.keys() - tensors.keys()]
    problems += [f"{name} is unknown to this model" for name in tensors.keys() - expected.keys()]
    for name in expected.keys() & tensors.keys():
        problems += _misfits(name, tensors[name], expected[name], convert=convert)
    if problems:
        theirs = from_dict(ModelConfig, state["config"]["model"])
        settings = differences(to_dict(model.config), to_dict(theirs), "model.")
        raise CheckpointError(f"{checkpoint}: is a checkpoint of another model:\n  {_listed(settings, problems)}")
    _require_finite(checkpoint / MODEL, tensors)
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


def _misfits(name: str, found: torch.Tensor, expected: torch.Tensor, *, convert: bool = False) -> list[str]:
    """The differences between a tensor that was read and the expected one, in shape or else in dtype."""
    if found.shape != expected.shape:
        return [f"{name} has shape {tuple(found.shape)}, here {tuple(expected.shape)}"]
    if found.dtype != expected.dtype and not convert:
        return [f"{name} is {found.dtype}, here {expected.dtype}"]
    return []


def _listed(settings: list[str], problems: list[str]) -> str:
    more = [f"and {len(problems) - 12} more tensors"] if len(problems) > 12 else []
    return "\n  ".join([*settings, *sorted(problems)[:12], *more])


def _require_finite(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    if names := nonfinite(tensors):
        raise CheckpointError(
            f"{path}: holds NaN or infinite numbers, expected finite ones, in {', '.join(names[:12])}"
        )


def optimizer_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """The optimizer's state, by "parameter:key". A parameter without state has one empty tensor, "parameter:idle"."""
    return {
        f"{name}:{key}": value
        for name, parameter in _trained(model, optimizer).items()
        for key, value in (optimizer.state.get(parameter) or {_IDLE: torch.empty(0)}).items()
    }


def load_optimizer(model: nn.Module, optimizer: torch.optim.Optimizer, checkpoint: Path) -> None:
    """Copy a checkpoint's optimizer state into an optimizer over the same model.

    Raises CheckpointError, which names the parameters, if entries are missing, unknown or not finite, or have another
    shape or dtype. A checkpoint of version 0.1.0 has no entries for parameters without state, and a warning names them.
    """
    trained, found = _trained(model, optimizer), {}
    tensors = read_tensors(checkpoint, "optimizer")
    for full, value in tensors.items():
        name, _, key = full.rpartition(":")
        found.setdefault(name, {})[key] = value
    problems = [f"{name} has entries, but is not trained here" for name in found.keys() - trained.keys()]
    absent = [name for name in trained if name not in found]
    if _has_checksums(checkpoint):
        problems += [f"{name} has no entries" for name in absent]
    elif absent and found:
        logger.warning("%s has no optimizer state for %s; it starts again there", checkpoint, ", ".join(absent))
    for name in found.keys() & trained.keys():
        problems += _wrong_entries(name, found[name], trained[name])
    path = checkpoint / "optimizer.safetensors"
    if problems:
        raise CheckpointError(f"{path}: does not fit the optimizer:\n  {_listed([], problems)}")
    _require_finite(path, tensors)
    for name, entries in found.items():
        if _IDLE not in entries:
            # The kernels of fused AdamW read the step count on the parameter's device, and do not check where it is.
            device = trained[name].device
            optimizer.state[trained[name]] = {key: value.to(device) for key, value in entries.items()}


def _trained(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, nn.Parameter]:
    ours = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    return {name: parameter for name, parameter in model.named_parameters() if id(parameter) in ours}


def _wrong_entries(name: str, entries: dict[str, torch.Tensor], parameter: nn.Parameter) -> list[str]:
    if entries.keys() == {_IDLE}:
        return []
    if entries.keys() != {"step", *_MOMENTS}:
        return [f"{name} has {', '.join(sorted(entries))}, expected step, {', '.join(_MOMENTS)}"]
    expected = {"step": torch.tensor(0.0)} | dict.fromkeys(_MOMENTS, parameter)
    return [line for key, tensor in expected.items() for line in _misfits(f"{name}:{key}", entries[key], tensor)]


def load_random(checkpoint: Path, rank: int, world: int) -> None:
    """Restore process `rank`'s generators of `world` processes. Raises CheckpointError for states that do not fit."""
    tensors = read_tensors(checkpoint, "random")
    expected, path = random_state(), checkpoint / "random.safetensors"
    names = {f"{process}.{name}" for process in range(world) for name in expected}
    on_gpu = {f"{process}.cuda" for process in range(world)}  # a run may move from a machine with a GPU or to one
    problems = [f"{name} is missing" for name in names - tensors.keys() - on_gpu]
    problems += [f"{name} is unknown" for name in tensors.keys() - names - on_gpu]
    own = {name: tensors[full] for name in (*expected, "cuda") if (full := f"{rank}.{name}") in tensors}
    for name in own.keys() & expected.keys():
        problems += _misfits(f"{rank}.{name}", own[name], expected[name])
    if problems:
        raise CheckpointError(f"{path}: holds the states of other generators:\n  {_listed([], problems)}")
    _require_finite(path, own)
    try:
        restore_random_state(own)
    except (RuntimeError, ValueError, TypeError, OverflowError) as error:
        raise CheckpointError(f"{path}: does not hold the state of a generator: {error}") from error


def tower_reference(model: nn.Module) -> dict | None:
    """The entry of a checkpoint for a frozen tower that open_clip can fetch again, or None if it stores the tower."""
    vision = model.config.vision
    if vision.pretrained is None or vision.open_blocks != 0 or Path(vision.pretrained).exists():
        return None
    sha256 = tower_hash(model.vision.state_dict(), vision)
    return {"tower": vision.tower, "pretrained": vision.pretrained, "sha256": sha256}


def language_reference(model: nn.Module) -> dict | None:
    """The entry of a checkpoint for the frozen weights of a pretrained language model, which it does not store."""
    config = model.config.language
    if config is None or config.model == "opt" or config.tune == "all":
        return None
    return {"model": config.model, "sha256": tensors_hash(_frozen_language(model))}


def _frozen_language(model: nn.Module) -> dict[str, torch.Tensor]:
    """The tensors of a language model that are not trained."""
    tensors = {f"{LANGUAGE}{name}": tensor for name, tensor in model.language.state_dict(keep_vars=True).items()}
    return {name: tensor.detach() for name, tensor in tensors.items() if not tensor.requires_grad}
