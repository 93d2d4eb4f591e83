"""The measurement after each epoch that chooses a run's best checkpoint. It uses `data.val`, never the test set."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import ClassVar

import torch
from torch import Tensor, nn

from stgt.config import TrainConfig
from stgt.data.annotations import load_videos, require_disjoint
from stgt.data.features import FeatureStore
from stgt.data.loader import parts, read_batches
from stgt.data.prompts import LanguageTokenizer
from stgt.data.samples import collate
from stgt.data.text import Tokenizer, wordings
from stgt.evaluation.answers import answer_figures, predict
from stgt.evaluation.metrics import ranks, recall_figures, said_of
from stgt.randomness import random_state, restore_random_state
from stgt.signals import StopSignals, until_stopped
from stgt.tasks import QUESTIONS, RETRIEVAL, task_of


class Validation(ABC):
    """Measures a model on the validation split. The best checkpoint has the highest value of the figure `choose_by`.

    Raises ValueError if the annotation is malformed, if its videos are missing, or if it shares a video with the
    training annotation.
    """

    choose_by: ClassVar[str]

    def __init__(
        self, config: TrainConfig, tokenizer: Tokenizer | LanguageTokenizer, features: FeatureStore | None
    ) -> None:
        data, size = config.data, config.model.vision.sizes.image_size
        splits = {str(path): load_videos(path, data.bad_list) for path in (data.val, data.train)}
        require_disjoint(splits, "data.val")
        self.config, self.tokenizer = config, tokenizer
        self.clips = task_of(config.model).items(data.val, data, size, features=features, bad_list=data.bad_list)

    def __call__(self, model: nn.Module, stop: StopSignals) -> dict[str, float]:
        """Measure a model during its training. The model and all random generators are not changed.

        Raises Interrupted between two batches if `stop` has received a signal.
        """
        numbers = parts(len(self.clips), self.config.batch_size)
        read = read_batches(self.clips, numbers, workers=self.config.data.workers, collate=collate)
        with _evaluating(model):
            return self._measure(model, until_stopped(read, stop), stop)

    @abstractmethod
    def _measure(self, model: nn.Module, batches: Iterable[dict], stop: StopSignals) -> dict[str, float]: ...


class QuestionValidation(Validation):
    """Measures the "accuracy" of answers from greedy search."""

    choose_by = "accuracy"

    def _measure(self, model: nn.Module, batches: Iterable[dict], stop: StopSignals) -> dict[str, float]:
        questions, size = self.clips.questions, self.config.batch_size
        answers = predict(model, self.tokenizer, batches, questions, beams=1, batch_size=size)
        return {"accuracy": answer_figures([question for _, question in questions], answers)["all"]["accuracy"]}


class RetrievalValidation(Validation):
    """Measures how videos are found by their captions, by similarity alone. "mean" averages R@1, R@5 and R@10."""

    choose_by = "mean"

    def _measure(self, model: nn.Module, batches: Iterable[dict], stop: StopSignals) -> dict[str, float]:
        device = next(model.parameters()).device
        queries = []
        for batch in batches:
            inputs = {name: batch[name].to(device) for name in ("video", "tokens") if name in batch}
            queries.append(model.encode_video(**inputs).queries)
        queries, owner = torch.cat(queries), torch.tensor([video for video, _ in self.clips.captions])
        wording = torch.tensor(wordings(caption for _, caption in self.clips.captions))
        said = said_of(owner, wording, len(queries))
        length, size = self.config.model.qformer.max_text_length, 8 * self.config.batch_size
        found: list[Tensor] = []
        captions = until_stopped(_parts(self.clips.captions, size), stop)
        for numbers, part in zip(wording.split(size), captions, strict=True):
            ids, mask = self.tokenizer.encode([caption for _, caption in part], length)
            similarity = model.similarity(queries, model.encode_text(ids.to(device), mask.to(device))).float().cpu()
            found.append(ranks(similarity.T, said[:, numbers].T))
        return recall_figures(torch.cat(found))


VALIDATIONS = {RETRIEVAL.name: RetrievalValidation, QUESTIONS.name: QuestionValidation}


def make_validation(
    config: TrainConfig, tokenizer: Tokenizer | LanguageTokenizer, features: FeatureStore | None
) -> Validation:
    """The validation of a run's task."""
    return VALIDATIONS[task_of(config.model).name](config, tokenizer, features)


def _parts(texts: list, size: int) -> Iterator[list]:
    for start in range(0, len(texts), size):
        yield texts[start : start + size]


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Run a block without gradients and dropout, and restore the random generators afterwards.

    Training therefore draws the same random numbers whether a validation has run or not.
    """
    state, training = random_state(), model.training
    try:
        model.eval()
        with torch.no_grad():
            yield
    finally:
        model.train(training)
        restore_random_state(state)
