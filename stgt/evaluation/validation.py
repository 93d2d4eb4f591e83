"""The measurement after each epoch that chooses a run's best checkpoint. It uses `data.val`, never the test set."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import ClassVar

import torch
from torch import nn

from stgt.config import TrainConfig
from stgt.data.annotations import load_videos, require_disjoint
from stgt.data.features import FeatureStore
from stgt.data.loader import parts, read_batches
from stgt.data.prompts import LanguageTokenizer
from stgt.data.samples import collate
from stgt.data.text import Tokenizer, wordings
from stgt.distributed import World
from stgt.evaluation.answers import is_right, predict
from stgt.evaluation.metrics import ranks, recall_figures, said_of
from stgt.randomness import random_state, restore_random_state
from stgt.signals import Interrupted, StopSignals, until_stopped
from stgt.tasks import QUESTIONS, RETRIEVAL, task_of


class Validation(ABC):
    """Measures a model on the validation split. The best checkpoint has the highest value of the figure `choose_by`.

    The processes share the batches. The batches do not depend on the number of processes, and each process gets the
    figures that one process alone would get.
    Raises ValueError if the annotation is malformed, if its videos are missing, or if it shares a video with the
    training annotation.
    """

    choose_by: ClassVar[str]

    def __init__(
        self,
        config: TrainConfig,
        tokenizer: Tokenizer | LanguageTokenizer,
        features: FeatureStore | None,
        world: World,
    ) -> None:
        data, size = config.data, config.model.vision.sizes.image_size
        task = task_of(config.model)
        if data.val == data.train:
            raise ValueError(f"data.val is {data.val}, which is data.train as well, expected another annotation")
        splits = {str(path): load_videos(path, data.bad_list, kind=task.kind) for path in (data.val, data.train)}
        require_disjoint(splits, "data.val")
        self.config, self.tokenizer, self.world = config, tokenizer, world
        self.clips = task.items(data.val, data, size, features=features, bad_list=data.bad_list)

    def __call__(self, model: nn.Module, stop: StopSignals) -> dict[str, float]:
        """Measure a model during its training. The model and all random generators are not changed.

        Every process must call this. Raises Interrupted in all of them if `stop` of one of them has received a signal
        before it was done.
        """
        numbers = self._own(parts(len(self.clips), self.config.batch_size))
        read = read_batches(self.clips, numbers, workers=self.config.data.workers, collate=collate)
        with _evaluating(model):
            return self._measure(model, until_stopped(read, stop), stop)

    @abstractmethod
    def _measure(self, model: nn.Module, batches: Iterable[dict], stop: StopSignals) -> dict[str, float]: ...

    def _own(self, batches: list[range]) -> list[range]:
        """The batches of this process."""
        return batches[self.world.rank :: self.world.size]

    @contextmanager
    def _interrupted_together(self) -> Iterator[None]:
        """Run this process's share. If a signal interrupted the share of some process, raise Interrupted in all."""
        signum = 0
        try:
            yield
        except Interrupted as interrupted:
            signum = interrupted.signum
        if signum := self.world.max(signum):
            raise Interrupted(signum)


class QuestionValidation(Validation):
    """Measures the "accuracy" of answers from greedy search."""

    choose_by = "accuracy"

    def _measure(self, model: nn.Module, batches: Iterable[dict], stop: StopSignals) -> dict[str, float]:
        questions, size = self.clips.questions, self.config.batch_size
        own = {number for numbers in self._own(parts(len(self.clips), size)) for number in numbers}
        asked, right = [pair for pair in questions if pair[0] in own], 0
        with self._interrupted_together():
            answers = predict(model, self.tokenizer, batches, asked, beams=1, batch_size=size)
            right = sum(is_right(question, answer) for (_, question), answer in zip(asked, answers, strict=True))
        return {"accuracy": 100.0 * self.world.sum(right) / len(questions)}


class RetrievalValidation(Validation):
    """Measures how videos are found by their captions, by similarity alone. "mean" averages R@1, R@5 and R@10."""

    choose_by = "mean"

    def _measure(self, model: nn.Module, batches: Iterable[dict], stop: StopSignals) -> dict[str, float]:
        device, q = next(model.parameters()).device, self.config.model.qformer
        queries = torch.zeros(len(self.clips), q.queries, q.embed_dim, device=device)
        with self._interrupted_together():
            for batch in batches:
                inputs = {name: batch[name].to(device) for name in ("video", "tokens") if name in batch}
                queries[batch["index"].to(device)] = model.encode_video(**inputs).queries
        queries, owner = self.world.add(queries), torch.tensor([video for video, _ in self.clips.captions])
        wording = torch.tensor(wordings(caption for _, caption in self.clips.captions))
        said, found = said_of(owner, wording, len(queries)), torch.zeros(len(owner), dtype=torch.int64)
        with self._interrupted_together():
            for numbers in until_stopped(self._own(parts(len(owner), 8 * self.config.batch_size)), stop):
                part = slice(numbers.start, numbers.stop)
                ids, mask = self.tokenizer.encode([text for _, text in self.clips.captions[part]], q.max_text_length)
                similarity = model.similarity(queries, model.encode_text(ids.to(device), mask.to(device))).float().cpu()
                found[part] = ranks(similarity.T, said[:, wording[part]].T)
        return recall_figures(self.world.add(found).cpu())


VALIDATIONS = {RETRIEVAL.name: RetrievalValidation, QUESTIONS.name: QuestionValidation}


def make_validation(
    config: TrainConfig, tokenizer: Tokenizer | LanguageTokenizer, features: FeatureStore | None, world: World
) -> Validation:
    """The validation of a run's task."""
    return VALIDATIONS[task_of(config.model).name](config, tokenizer, features, world)


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
