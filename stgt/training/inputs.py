"""Checks, by a fingerprint, that a run goes on with the same data that it was started with."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from stgt import checkpoint as ckpt
from stgt.config import TrainConfig
from stgt.data.annotations import each_question
from stgt.data.entries import Question
from stgt.data.fingerprint import FINGERPRINT, Fingerprint, data_differences, require_same
from stgt.data.prompts import PROMPT, LanguageTokenizer
from stgt.data.samples import PairDataset
from stgt.integrity import DamagedError, has_checksums, verify_checksums
from stgt.models.vqa import LONGEST_ANSWER, VideoQA

if TYPE_CHECKING:
    from stgt.evaluation.validation import Validation

logger = logging.getLogger(__name__)


def fingerprint_file(run: Path) -> Path:
    """The file with the fingerprint of a run's data, beside its checkpoints."""
    return run / "checkpoints" / FINGERPRINT


def require_same_data(config: TrainConfig, items: PairDataset, validation: Validation | None) -> Fingerprint:
    """The fingerprint of the data. Raises ValueError that lists the differences if the run was started with other data.

    With `config.accept_changed_data` there is a warning in place of the error. A run of version 0.1.0 has no
    fingerprint, and gets a warning as well. With a feature cache, the cache is compared in place of the videos and the
    decoder.
    A new run compares the videos of simulated clips with the checksums in their folder, and raises DamagedError if one
    differs.
    """
    data, cached = config.data, items.features is not None
    paths = {
        "data.train": data.train,
        "data.val": data.val,
        "data.answers": data.answers,
        "data.bad_list": data.bad_list,
    }
    now = Fingerprint.take(
        {label: path for label, path in paths.items() if path is not None},
        [] if cached else {*items.videos.files(), *(validation.clips.videos.files() if validation else ())},
        data.videos,
        decoder=f"that of {data.features}" if cached else items.decoder_version,
        contents=data.check_contents,
    )
    if cached:
        now = replace(now, files={**now.files, "data.features": items.features.sha256()})
    if not (config.out / "config.json").exists():
        if not cached and has_checksums(data.train.parent):
            verify_checksums(data.train.parent, below="videos/")  # annotations may be the user's own
        return now
    try:
        then = Fingerprint.load(fingerprint_file(config.out))
    except (FileNotFoundError, DamagedError) as error:
        _require_old_run(config, error)
        return now
    now = now.completed(then, data.videos)
    require_same(
        f"{config.out} holds a run that was started with other data",
        data_differences(now, then),
        accept=config.accept_changed_data,
    )
    return now


def require_room_for_questions(config: TrainConfig, tokenizer: LanguageTokenizer, model: VideoQA) -> None:
    """Raise ValueError if a question has too many tokens for the language model.

    Training reads its answer as well, and validation writes an answer of up to LONGEST_ANSWER tokens.
    """
    most = getattr(model.language.config, "max_position_embeddings", None)
    if most is None:  # some models count positions without a limit
        return
    queries, data = config.model.qformer.queries, config.data
    for label, path in {"data.train": data.train, "data.val": data.val}.items():
        if path is None:
            continue
        for asked in each_question(path, data.bad_list):
            if _most_tokens(asked) <= most - queries:  # encoding all of them would take long
                continue
            text, prompt = tokenizer.encode(asked.question, asked.answer)
            words = len(text) if label == "data.train" else prompt + LONGEST_ANSWER
            if queries + words > most:
                raise ValueError(
                    f"{label}: {asked.question!r} with its answer has {words} tokens, which are {queries + words} "
                    f"positions with the {queries} queries, expected at most the language model's {most}"
                )


def forget_best_of_other_data(run: Path, now: Fingerprint, validation: Validation | None, steps: int) -> None:
    """Remove the best checkpoint so far from the newest checkpoint's state if other data chose it than are there now.

    Its figure cannot be compared with those to come. The best checkpoint of a run of `steps` steps that has made all of
    them stays. This has to be called before `now` replaces the fingerprint of the run.
    """
    newest = ckpt.newest_checkpoint(run)
    if validation is None or newest is None:
        return
    state = ckpt.read_state(newest)
    if state.get("best") is None or state["step"] >= steps:
        return
    try:
        then = Fingerprint.load(fingerprint_file(run))
    except FileNotFoundError:
        changes = []  # version 0.1.0 wrote none, which require_same_data has told
    except DamagedError as error:
        changes = [str(error)]
    else:
        read = ("data.val", "data.bad_list", "data.features"), validation.clips.videos.files()
        changes = data_differences(now.part(*read), then.part(*read), count_names=False)
    if changes:
        best = state["best"]["step"]
        logger.warning("the checkpoint of step %d was the best on other validation data, so it counts no more", best)
        ckpt.update_state(newest, best=None)


def _most_tokens(asked: Question) -> int:
    """A number of tokens that a question has at most with its prompt and its answer.

    A token has at least one byte. A letter may have twice as many bytes in lower case, and a tokenizer adds some.
    """
    return 2 * len((PROMPT + asked.question + asked.answer).encode()) + LONGEST_ANSWER


def _require_old_run(config: TrainConfig, error: Exception) -> None:
    """Raise ValueError for a run whose fingerprint cannot be read. Version 0.1.0 wrote none, which is a warning."""
    newest = ckpt.newest_checkpoint(config.out)
    if newest is None:
        return
    if isinstance(error, FileNotFoundError) and "data" not in ckpt.read_state(newest):
        logger.warning(
            "%s was started by version 0.1.0, which did not record its data, so the data cannot be compared", config.out
        )
        return
    require_same(
        f"{config.out}: it cannot be told whether the data are the same",
        [str(error)],
        accept=config.accept_changed_data,
    )
