"""The checkpoints in the folder of a run."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

from stgt.checkpoint.names import MODEL, SHARDS, STATE, name_of, step_of
from stgt.checkpoint.state import CheckpointError, read_state
from stgt.files import remove_folder

logger = logging.getLogger(__name__)


def checkpoints(run: Path) -> list[Path]:
    """The checkpoints of a run folder, oldest first, recognised by names and files. Their contents are not read."""
    return sorted((path for path, reason in _candidates(run) if reason is None), key=step_of)


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
    """The checkpoint that was best on the validation split. In a run without validation it is the newest one.

    Raises CheckpointError if there is no checkpoint, or if the best one is missing.
    """
    latest = latest_checkpoint(run)
    best = read_state(latest).get("best")
    if best is None:
        return latest
    chosen = run / "checkpoints" / name_of(best["step"])
    if chosen not in checkpoints(run):
        raise CheckpointError(f"{chosen}: there is no such checkpoint, but {latest} says that it is the best one")
    return chosen


def _candidates(run: Path) -> Iterator[tuple[Path, str | None]]:
    """The paths in a run folder that are named step-…, each with the reason why it is not a checkpoint, or None."""
    for path in sorted((run / "checkpoints").glob("step-*")):
        has_weights = (path / MODEL).is_file() or (path / SHARDS).is_dir()
        if step_of(path) is None:
            yield path, "its name is not step- and eight digits"
        elif not path.is_dir():
            yield path, "it is not a folder"
        elif not (path / STATE).is_file():
            yield path, f"it has no {STATE}"
        else:
            yield path, None if has_weights else f"it has no {MODEL} and no folder {SHARDS}"


def require_free_names(run: Path, first: int, last: int) -> None:
    """Raise CheckpointError if a path that is not a checkpoint has the name that one of these steps will need."""
    for path, reason in _candidates(run):
        if reason is not None and (step := step_of(path)) is not None and first <= step <= last:
            raise CheckpointError(
                f"{path} is not a checkpoint: {reason}; the run cannot go on until it is moved away, "
                f"because the checkpoint of step {step} needs its name"
            )


def require_kept(kept: Path | None, step: int) -> None:
    """Raise CheckpointError if the checkpoint that a run has kept is gone before that of `step` is written."""
    if kept is not None and not kept.is_dir():
        raise CheckpointError(
            f"{kept} is gone, so {kept.parents[1]} was removed or renamed while the run was going on, and step {step} "
            "is lost; the same command goes on from the last checkpoint in the folder's old place"
        )


def rotate(used: Path, keep: int) -> None:
    """Remove the checkpoints beside `used`, except the newest `keep`, their best ones, and those that cannot be read.

    used: the checkpoint that the run has written or read. The best one of a checkpoint is the one that it names as the
    best so far. Without it, a run could not go back to this checkpoint if the newer ones are damaged.
    """
    states = {}
    for path in checkpoints(used.parents[1]):
        try:
            states[path] = read_state(path)
        except CheckpointError as error:
            logger.warning("%s; it is kept", error)
    needed = {used, *list(states)[-keep:]}
    bests = [best for path in needed & states.keys() if (best := states[path].get("best"))]
    needed |= {used.with_name(name_of(best["step"])) for best in bests}
    for old in states:
        if old not in needed and not old.is_symlink():
            remove_folder(old)
