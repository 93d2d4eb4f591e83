"""The two tasks that a model can have: retrieval, and answering questions.

A task is an object that holds the model, tokenizer and data set that belong together. A configuration with a language
model has the task of answering questions.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

from torch import nn

from stgt.config import DataConfig, ModelConfig, TrainConfig
from stgt.data.annotations import each_question, load_texts
from stgt.data.features import FeatureStore
from stgt.data.manifest.rows import Kind
from stgt.data.prompts import LanguageTokenizer
from stgt.data.samples import PairDataset, QuestionDataset, RetrievalDataset, collate
from stgt.data.text import Tokenizer
from stgt.data.transforms import eval_transform, train_transform
from stgt.integrity import has_checksums, require_finite, verify_checksums
from stgt.models.stgt import STGT
from stgt.models.vqa import VideoQA


class Task(ABC):
    """One task. `name` identifies it, and `described` tells a user which kind of run has it."""

    name: ClassVar[str]
    described: ClassVar[str]
    model_class: ClassVar[type[nn.Module]]
    items_class: ClassVar[type[PairDataset]]
    kind: ClassVar[Kind]
    """The columns that it reads from an annotation"""

    def make_model(self, config: ModelConfig) -> nn.Module:
        """A model before any training.

        Raises ValueError or OSError if its pretrained tower or language model cannot be read, or holds NaN or infinity.
        """
        model = self.model_class(config)
        require_finite(model.state_dict(), "the model's weights, before any training")
        return model

    @abstractmethod
    def make_tokenizer(self, data: DataConfig, model: ModelConfig) -> Tokenizer | LanguageTokenizer:
        """The tokenizer of a new run: a published one, or one that is trained on the run's own sentences."""

    @abstractmethod
    def tokenizer_name(self, data: DataConfig, model: ModelConfig) -> str | None:
        """The setting that names the tokenizer of a new run, with its value, or None if it is trained."""

    def load_tokenizer(self, folder: Path) -> Tokenizer | LanguageTokenizer:
        """The tokenizer that a run has saved. Raises DamagedError if one of its files has changed since."""
        if has_checksums(folder):  # runs of version 0.1.0 have no checksums
            verify_checksums(folder)
        return self._read_tokenizer(folder)

    @abstractmethod
    def _read_tokenizer(self, folder: Path) -> Tokenizer | LanguageTokenizer: ...

    @abstractmethod
    def fit_to_tokenizer(self, model: ModelConfig, tokenizer: Tokenizer | LanguageTokenizer) -> ModelConfig:
        """The model's configuration with the sizes and ids of the tokenizer."""

    @abstractmethod
    def collate(self, tokenizer: Tokenizer | LanguageTokenizer) -> Callable[[list[dict]], dict]:
        """The function that makes a training batch from a list of pairs."""

    def training_items(
        self, config: TrainConfig, tokenizer: Tokenizer | LanguageTokenizer, features: FeatureStore | None
    ) -> PairDataset:
        """The pairs of `data.train`. Raises ValueError for a malformed annotation and for a missing video."""
        data, size = config.data, config.model.vision.sizes.image_size
        return self.items_class(
            data.train,
            data.videos,
            frames=data.frames,
            decoding=data.decoding,
            transform=train_transform(size, flip=data.flip) if data.augment else eval_transform(size),
            sampling=data.sampling,
            train=True,
            max_replacements=data.max_replacements,
            cache=data.cache,
            features=features,
            bad_list=data.bad_list,
            **self._training_options(config, tokenizer),
        )

    @abstractmethod
    def _training_options(self, config: TrainConfig, tokenizer: Tokenizer | LanguageTokenizer) -> dict: ...

    def items(self, annotation: Path, data: DataConfig, image_size: int, **options: object) -> PairDataset:
        """The videos of an annotation in the form for evaluation."""
        views = dict(frames=data.frames, decoding=data.decoding, transform=eval_transform(image_size))
        return self.items_class(annotation, data.videos, **views, **options)


class Retrieval(Task):
    """Finding videos for a caption, and captions for a video."""

    name = "retrieval"
    described = "a retrieval run, e.g. of recipe quickstart"
    model_class = STGT
    items_class = RetrievalDataset
    kind = "captions"

    def make_tokenizer(self, data: DataConfig, model: ModelConfig) -> Tokenizer:
        if self.tokenizer_name(data, model) is None:
            return Tokenizer.train(load_texts(data.train, data.bad_list), data.tokenizer_size)
        return Tokenizer.from_pretrained(data.tokenizer)

    def tokenizer_name(self, data: DataConfig, model: ModelConfig) -> str | None:
        return None if data.tokenizer == "train" else f"data.tokenizer is {data.tokenizer!r}"

    def _read_tokenizer(self, folder: Path) -> Tokenizer:
        return Tokenizer.load(folder)

    def fit_to_tokenizer(self, model: ModelConfig, tokenizer: Tokenizer) -> ModelConfig:
        ids = dict(bos_token_id=tokenizer.bos_token_id, pad_token_id=tokenizer.pad_token_id)
        return replace(model, qformer=replace(model.qformer, vocab_size=tokenizer.vocab_size, **ids))

    def collate(self, tokenizer: Tokenizer) -> Callable[[list[dict]], dict]:
        return collate

    def _training_options(self, config: TrainConfig, tokenizer: Tokenizer) -> dict:
        return dict(tokenizer=tokenizer, max_length=config.model.qformer.max_text_length)


class Questions(Task):
    """Answering questions about a video."""

    name = "questions"
    described = "a question answering run, e.g. of recipe vqa_shapes"
    model_class = VideoQA
    items_class = QuestionDataset
    kind = "questions"

    def make_tokenizer(self, data: DataConfig, model: ModelConfig) -> LanguageTokenizer:
        if self.tokenizer_name(data, model) is None:
            return LanguageTokenizer.train(each_question(data.train, data.bad_list), data.tokenizer_size)
        return LanguageTokenizer.from_pretrained(model.language.model)

    def tokenizer_name(self, data: DataConfig, model: ModelConfig) -> str | None:
        return None if model.language.model == "opt" else f"model.language.model is {model.language.model!r}"

    def _read_tokenizer(self, folder: Path) -> LanguageTokenizer:
        return LanguageTokenizer.from_pretrained(folder)

    def fit_to_tokenizer(self, model: ModelConfig, tokenizer: LanguageTokenizer) -> ModelConfig:
        return replace(model, language=replace(model.language, vocab_size=tokenizer.vocab_size))

    def collate(self, tokenizer: LanguageTokenizer) -> Callable[[list[dict]], dict]:
        return tokenizer.collate

    def _training_options(self, config: TrainConfig, tokenizer: LanguageTokenizer) -> dict:
        return dict(answers=config.data.answers)


RETRIEVAL = Retrieval()
QUESTIONS = Questions()


def task_of(model: ModelConfig) -> Task:
    """The task that a model of this configuration has."""
    return RETRIEVAL if model.language is None else QUESTIONS
