"""A run from its configuration to its folder, and back: `config.json`, the tokenizer, the checkpoints, the log."""

from __future__ import annotations

import logging
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from stgt import checkpoint as ckpt
from stgt.config import DataConfig, ModelConfig, TrainConfig, differences, from_dict, to_dict
from stgt.data.annotations import load_captions, load_questions
from stgt.data.features import FeatureStore, tower_hash
from stgt.data.fingerprint import require_same
from stgt.data.prompts import LanguageTokenizer
from stgt.data.samples import PairDataset, QuestionDataset, RetrievalDataset, collate
from stgt.data.text import Tokenizer
from stgt.data.transforms import describe, test_transform, train_transform
from stgt.distributed import World, choose_device, start_world
from stgt.evaluation.validation import Validation
from stgt.files import write_json, write_text
from stgt.integrity import CHECKSUMS, checksum_lines, has_checksums, require_finite, verify_checksums
from stgt.models.encoder import VideoEncoder
from stgt.models.stgt import STGT
from stgt.models.vqa import VideoQA
from stgt.ownership import owned
from stgt.randomness import seed_everything
from stgt.structure import read_json
from stgt.training.inputs import fingerprint_file, require_same_data
from stgt.training.trainer import Trainer
from stgt.weights.load import load_released
from stgt.weights.pretrained import CONFIG, is_pretrained, read_config

logger = logging.getLogger(__name__)


class Run(NamedTuple):
    """A trained run, as its folder has it."""

    config: TrainConfig
    model: STGT | VideoQA
    tokenizer: Tokenizer | LanguageTokenizer
    checkpoint: Path


def train(config: TrainConfig) -> None:
    """Train, from the start or from the last checkpoint in `config.out`.

    Everything that can be wrong with the configuration, the folder, the data and the feature cache is found first, and
    raised as ValueError or CheckpointError before the run folder is touched.
    """
    world = start_world(config.device)
    try:
        with owned(config.out) if world.is_main else nullcontext():
            _train(config, world)
    finally:
        world.close()


def _train(config: TrainConfig, world: World) -> None:
    tokenizer = make_tokenizer(config)
    config = fit_to_tokenizer(config, tokenizer)
    require_same_run(config)
    features = None if config.data.features is None else FeatureStore(config.data.features)
    items = training_data(config, tokenizer, features)
    seed_everything(config.seed)
    model = make_model(config.model)
    if features is not None:
        changed = dict(contents=config.data.check_contents, accept_changed=config.accept_changed_data)
        require_features(features, items, model, **changed)
    if not ckpt.checkpoints(config.out) and config.init is not None:
        start_from(model, config.init)
    batch = collate if config.model.language is None else tokenizer.collate
    validation = None if config.data.val is None else Validation(config, tokenizer, features)
    data = require_same_data(config, items, validation) if world.is_main else None
    trainer = Trainer(config, model, items, batch, world, validation, data and data.summary())
    if world.is_main:
        if not (config.out / "config.json").exists():  # it is written last, and then the tokenizer is whole
            save_tokenizer(tokenizer, config.out / "tokenizer")
        data.save(fingerprint_file(config.out))
        write_json(config.out / "config.json", to_dict(config))
    trainer.fit()


def load_run(folder: Path, device: str = "auto") -> Run:
    """The model of a run's chosen checkpoint, ready to evaluate: the best on `data.val`, else the last.

    Raises CheckpointError for a folder that holds none.
    """
    checkpoint = ckpt.chosen_checkpoint(folder)
    config = saved_config(checkpoint)
    model = make_model(config.model)
    ckpt.load_model(model, checkpoint)
    return Run(config, model.to(choose_device(device)).eval(), _saved_tokenizer(config, folder), checkpoint)


def saved_config(checkpoint: Path) -> TrainConfig:
    """The configuration that a checkpoint was trained with. Raises CheckpointError for one that makes no sense."""
    try:
        return from_dict(TrainConfig, ckpt.read_state(checkpoint)["config"])
    except ValueError as error:
        raise ckpt.CheckpointError(f"{checkpoint / ckpt.STATE}: config: {error}") from None


def make_model(config: ModelConfig) -> STGT | VideoQA:
    """The model; ValueError or OSError if its pretrained tower or its language model cannot be had or is not finite."""
    model = STGT(config) if config.language is None else VideoQA(config)
    require_finite(model.state_dict(), "the model's weights, before any training")
    return model


def make_tokenizer(config: TrainConfig) -> Tokenizer | LanguageTokenizer:
    """The run's tokenizer: the folder's own if it was started before, else as the configuration says."""
    data, language = config.data, config.model.language
    if (config.out / "config.json").exists():
        return _saved_tokenizer(config, config.out)
    if language is not None:
        if language.model == "opt":
            return LanguageTokenizer.train(load_questions(data.train), data.tokenizer_size)
        return LanguageTokenizer.from_pretrained(language.model)
    if data.tokenizer == "train":
        captions = [caption for clip in load_captions(data.train) for caption in clip.captions]
        return Tokenizer.train(captions, data.tokenizer_size)
    return Tokenizer.from_pretrained(data.tokenizer)


def _saved_tokenizer(config: TrainConfig, folder: Path) -> Tokenizer | LanguageTokenizer:
    place = folder / "tokenizer"
    if has_checksums(place):  # a run of version 0.1.0 has none
        verify_checksums(place)
    return (Tokenizer.load if config.model.language is None else LanguageTokenizer.from_pretrained)(place)


def save_tokenizer(tokenizer: Tokenizer | LanguageTokenizer, folder: Path) -> None:
    """Save a tokenizer with the checksums of its files."""
    tokenizer.save(folder)
    write_text(folder / CHECKSUMS, checksum_lines(folder))


def fit_to_tokenizer(config: TrainConfig, tokenizer: Tokenizer | LanguageTokenizer) -> TrainConfig:
    """The configuration with the tokenizer's sizes and ids in the model's."""
    model = config.model
    if model.language is not None:
        return replace(config, model=replace(model, language=replace(model.language, vocab_size=tokenizer.vocab_size)))
    sizes = dict(
        vocab_size=tokenizer.vocab_size, bos_token_id=tokenizer.bos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    return replace(config, model=replace(model, qformer=replace(model.qformer, **sizes)))


def require_same_run(config: TrainConfig) -> None:
    """Raise ValueError if the run folder was started with a configuration whose result would be another."""
    path = config.out / "config.json"
    if not path.exists():
        if found := ckpt.checkpoints(config.out):
            raise ValueError(
                f"{path}: there is no such file, but there are checkpoints, so that it was removed: put it back, "
                f"or choose another folder with --out; {found[-1] / ckpt.STATE} has its contents as the value 'config'"
            )
        return
    try:
        started = from_dict(TrainConfig, read_json(path, dict))
    except ValueError as error:
        raise ValueError(f"{path}: {str(error).removeprefix(f'{path}: ')}") from None
    if differing := differences(to_dict(config), to_dict(started)):
        listed = "\n  ".join(differing)
        raise ValueError(
            f"{config.out} holds a run of another configuration:\n  {listed}\n  "
            "repeat the command with the values there to go on with that run, or choose another folder with --out"
        )


def training_data(
    config: TrainConfig, tokenizer: Tokenizer | LanguageTokenizer, features: FeatureStore | None
) -> PairDataset:
    """The training pairs: videos with captions, or with questions where there is a language model."""
    data, size = config.data, config.model.vision.image_size
    options = dict(
        frames=data.frames,
        decoding=data.decoding,
        transform=train_transform(size, flip=data.flip) if data.augment else test_transform(size),
        sampling=data.sampling,
        train=True,
        max_replacements=data.max_replacements,
        cache=data.cache,
        features=features,
        bad_list=data.bad_list,
    )
    if config.model.language is not None:
        return QuestionDataset(data.train, data.videos, answers=data.answers, **options)
    length = config.model.qformer.max_text_length
    return RetrievalDataset(data.train, data.videos, tokenizer=tokenizer, max_length=length, **options)


def evaluation_data(data: DataConfig, image_size: int) -> RetrievalDataset:
    """The videos and captions of `data.test`."""
    options = dict(frames=data.frames, decoding=data.decoding, transform=test_transform(image_size))
    return RetrievalDataset(data.test, data.videos, **options)


def question_data(data: DataConfig, image_size: int) -> QuestionDataset:
    """The videos and questions of `data.test`."""
    options = dict(frames=data.frames, decoding=data.decoding, transform=test_transform(image_size))
    return QuestionDataset(data.test, data.videos, answers=data.answers, **options)


def require_features(
    features: FeatureStore,
    items: PairDataset,
    model: VideoEncoder,
    *,
    contents: bool = False,
    accept_changed: bool = False,
) -> None:
    """Raise ValueError unless the cache holds what the frozen tower would give for these items.

    contents: whether the videos are compared with the cache's by what is in them, too. accept_changed: whether other
    videos, and another decoder, are a warning only.
    """
    vision = model.config.vision
    if vision.open_blocks != 0:
        raise ValueError(f"data.features is given, but vision.open_blocks={vision.open_blocks} trains the tower")
    features.require(
        tower=tower_hash(model.vision.state_dict(), vision),
        transform=describe(items.transform),
        frames=items.frames,
        sampling=items.sampling,
    )
    changes = features.changed_videos(items.root, contents=contents)
    if (here := items.decoder_version) != features.key.decoder:
        changes.insert(0, f"decoder: {here}, there {features.key.decoder}")
    require_same(f"{features.folder} was made of other data", changes, accept=accept_changed)


def start_from(model: STGT | VideoQA, init: Path) -> None:
    """Load a run's chosen weights, a folder of `save_pretrained`, or a released checkpoint.

    Question answering takes those of a retrieval model.
    """
    if isinstance(model, VideoQA):
        _answer_from(model, init)
        return
    if is_pretrained(init) or not init.is_dir():
        load_released(model, init)
        return
    checkpoint = ckpt.chosen_checkpoint(init)
    ckpt.load_model(model, checkpoint, convert=True)
    theirs = ckpt.read_state(checkpoint)["config"]["model"]
    for line in differences(to_dict(model.config), theirs, "model."):
        logger.info("starting from %s, whose weights were trained with another %s", checkpoint, line)


def _answer_from(model: VideoQA, init: Path) -> None:
    """Take all that a retrieval or question answering model has; only the language model's side may be new."""
    if init.is_dir() and not is_pretrained(init):
        source = load_run(init, "cpu").model
    else:
        retrieval = replace(model.config, language=None)
        if is_pretrained(init):  # whose words may be others: they stay behind
            retrieval = replace(retrieval, qformer=read_config(init / CONFIG).qformer)
        source = make_model(retrieval)
        load_released(source, init)
    ours, theirs = model.state_dict(), source.state_dict()
    problems = [f"{name} is missing" for name in ours.keys() - theirs.keys() if not name.startswith("language")]
    problems += [
        f"{name} has shape {tuple(theirs[name].shape)}, here {tuple(ours[name].shape)}"
        for name in ours.keys() & theirs.keys()
        if ours[name].shape != theirs[name].shape
    ]
    if problems:
        settings = differences(to_dict(model.config), to_dict(source.config), "model.")
        listed = "\n  ".join([*settings, *sorted(problems)[:12]])
        raise ValueError(f"{init}: the model there does not fit:\n  {listed}")
    model.load_state_dict({name: theirs[name] for name in ours.keys() & theirs.keys()}, strict=False)
