"""One post-training, from its settings to its folder."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

from stgt import checkpoint as ckpt
from stgt.config import differences
from stgt.data.fingerprint import Fingerprint, data_differences, require_same
from stgt.fields import from_dict
from stgt.files import write_json
from stgt.finsta.hosts.folders import HostFolder, open_host
from stgt.finsta.saved import SETTINGS, save_finsta
from stgt.finsta.training.config import PostTraining
from stgt.finsta.training.data import GraphDataset, labels_of, read_clips, shuffled
from stgt.finsta.training.objective import WithFinsta, make_objective
from stgt.finsta.training.trainer import PostTrainer
from stgt.ownership import owned
from stgt.randomness import seed_everything
from stgt.structure import read_json, require_readable
from stgt.training.inputs import fingerprint_file


def post_train(config: PostTraining) -> None:
    """Post-train, from the start or from the last checkpoint in `config.out`.

    Settings, folders and data are checked first. A mistake in them raises ValueError, OSError or CheckpointError before
    anything in the folder is changed.
    """
    if config.out.resolve() == config.run.resolve():
        raise ValueError(f"out is {config.out}, the folder of the host, expected another one")
    with owned(config.out):
        _post_train(config)


def _post_train(config: PostTraining) -> None:
    require_same_run(config)
    out, settings = config.out, _settings(config)
    require_readable(settings, "the settings")  # the folder could not be read otherwise
    folder = open_host(config.run, config.host, device=config.device, tokenizer=config.tokenizer)
    config = replace(config, precision=config.precision or _precision(folder))
    clips = read_clips(config.graphs)
    vocabulary = sorted(set().union(*map(labels_of, clips)))
    if config.control == "shuffled":
        clips = shuffled(clips, config.seed)
    data, root = folder.data, _videos(config, folder)
    items = GraphDataset(
        config.graphs,
        clips,
        root,
        frames=config.frames or data.frames,
        decoding=data.decoding,
        transform=folder.transform,
        sampling=data.sampling,
        max_replacements=data.max_replacements,
        cache=config.cache,
    )
    seed_everything(config.seed)
    objective = make_objective(config, folder.host, vocabulary)
    found = _same_data(config, items, root)
    trainer = PostTrainer(config, folder, objective, items, found.summary())
    folder.begin(out)
    found.save(fingerprint_file(out))
    write_json(out / SETTINGS, settings | {"widths": list(folder.host.widths)})
    trainer.fit()
    folder.finish(out)
    if isinstance(objective, WithFinsta):
        save_finsta(objective.finsta, out)


def _settings(config: PostTraining) -> dict:
    return json.loads(json.dumps(asdict(config), default=str))


def require_same_run(config: PostTraining) -> None:
    """Raise ValueError if `config.out` holds another run, or a post-training whose settings give another result."""
    out, settings = config.out, _settings(config)
    path = out / SETTINGS
    if not path.exists():
        if ckpt.checkpoints(out):
            raise ValueError(f"{out} holds a run without {SETTINGS}, expected a new folder or one of a post-training")
        return
    started = read_json(path, dict)
    started.pop("widths", None)
    try:
        started = _settings(from_dict(PostTraining, started))  # older files lack newer settings, which were not used
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    free = ("workers", "cache")  # they change no result; `differences` leaves out those of every run
    ours, theirs = ({key: values[key] for key in values if key not in free} for values in (settings, started))
    if differing := differences(ours, theirs):
        listed = "\n  ".join(differing)
        raise ValueError(
            f"{out} holds a post-training with other settings:\n  {listed}\n  "
            "repeat the command with those settings to go on with it, or choose another folder with --out"
        )


def _precision(folder: HostFolder) -> str:
    if folder.precision == "fp16":
        raise ValueError("the host was trained in fp16, whose losses are scaled, expected --precision bf16 or fp32")
    return folder.precision


def _videos(config: PostTraining, folder: HostFolder) -> Path:
    """The folder of the videos. Raises ValueError if there is none."""
    if config.videos is not None:
        if not config.videos.is_dir():
            raise ValueError(f"--videos is {config.videos}, expected an existing folder")
        return config.videos
    beside = config.graphs.parent / "videos"
    found = next((place for place in (beside, folder.data.videos) if place.is_dir()), None)
    if found is None:
        raise ValueError(f"there is no folder {beside}, expected --videos and the folder of the videos")
    return found


def _same_data(config: PostTraining, items: GraphDataset, root: Path) -> Fingerprint:
    """The fingerprint of the data. Raises ValueError if the post-training in the folder began with other data."""
    now = Fingerprint.take({"graphs": config.graphs}, items.videos, root, decoder=items.decoder_version)
    if (config.out / SETTINGS).exists():
        then = Fingerprint.load(fingerprint_file(config.out))
        require_same(
            f"{config.out} holds a post-training that was started with other data",
            data_differences(now, then),
            accept=config.accept_changed_data,
        )
    return now
