"""Data sets over annotations: pairs of a video and a caption to train on, videos and their captions to search."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import Dataset

from stgt.data.annotations import load_answers, load_captions, load_questions, require_videos
from stgt.data.features import FeatureStore
from stgt.data.text import Tokenizer
from stgt.data.video import Sampling, VideoError, read_frames, sample_indices

logger = logging.getLogger(__name__)


class VideoDataset(Dataset):
    """Videos by number: item i is dict(video, index, path), with "tokens" for "video" where there is a feature cache.

    video: float32 (T, 3, S, S); tokens: bfloat16 (T, 1+P, C). random=True draws frames, augmentation and cached view
    from torch's default generator and from nothing else, so whoever seeds it decides the item; otherwise nothing is
    drawn. cache=True decodes every frame of every video at once and keeps them, for small sets. A video that cannot be
    read raises VideoError when it is asked for.
    """

    def __init__(
        self,
        videos: Sequence[str],
        root: str | Path,
        *,
        frames: int,
        transform: Callable[[Tensor], Tensor],
        sampling: Sampling = "uniform",
        random: bool = False,
        cache: bool = False,
        features: FeatureStore | None = None,
    ) -> None:
        self.videos, self.root = list(videos), Path(root)
        self.frames, self.transform, self.sampling, self.random = frames, transform, sampling, random
        self.features = features
        self._decoded = [self._decode(video) for video in self.videos] if cache and features is None else None

    def __len__(self) -> int:
        return len(self.videos)

    def __getitem__(self, index: int) -> dict:
        return self.clip(index)

    def clip(self, index: int) -> dict:
        """Item `index`, whatever a subclass makes of the data set's own items."""
        place = {"index": index, "path": str(self.root / self.videos[index])}
        if self.features is not None:
            view = int(torch.randint(self.features.views, ())) if self.random else 0
            return {"tokens": self.features.read(self.videos[index], view), **place}
        return {"video": self.transform(self._frames(index).permute(0, 3, 1, 2)), **place}

    def _frames(self, index: int) -> Tensor:
        rng = torch.default_generator if self.random else None
        if self._decoded is None:
            return read_frames(self.root / self.videos[index], self.frames, self.sampling, rng)
        decoded = self._decoded[index]
        if isinstance(decoded, VideoError):
            raise decoded
        return decoded[torch.from_numpy(sample_indices(len(decoded), self.frames, self.sampling, rng))]

    def _decode(self, video: str) -> Tensor | VideoError:
        try:
            return read_frames(self.root / video, None)
        except VideoError as error:
            return error


class RetrievalDataset(VideoDataset):
    """A retrieval annotation, to train on or to search in.

    train=True: item i is the i-th pair of a video and a caption, the video's item with input_ids and attention_mask
    (int64 (L,)), caption and `replaced`. If the video cannot be read the *pair* is replaced by another one, drawn as
    everything else, at most `max_replacements` times in a row; `replaced` counts them, and index, path and caption are
    those of the pair that is there. train=False: item i is the i-th distinct video, and `captions` lists (number of
    the video, text); a video that cannot be read raises VideoError, nothing is replaced.
    Raises ValueError for a malformed annotation and for one whose video is missing, naming entry and path.
    """

    def __init__(
        self,
        annotation: str | Path,
        root: str | Path,
        *,
        frames: int,
        transform: Callable[[Tensor], Tensor],
        tokenizer: Tokenizer | None = None,
        max_length: int = 32,
        sampling: Sampling = "uniform",
        train: bool = False,
        max_replacements: int = 10,
        cache: bool = False,
        features: FeatureStore | None = None,
    ) -> None:
        if train and tokenizer is None:
            raise ValueError("tokenizer is None, expected one: training pairs hold the caption's token ids")
        clips = load_captions(annotation)
        _require_readable(annotation, [clip.video for clip in clips], root, features)
        self.captions: list[tuple[int, str]] = []
        numbers: dict[str, int] = {}
        for clip in clips:
            number = numbers.setdefault(clip.video, len(numbers))
            self.captions += [(number, caption) for caption in clip.captions]
        self.tokenizer, self.max_length = tokenizer, max_length
        self.train, self.max_replacements = train, max_replacements
        super().__init__(
            list(numbers), root,
            frames=frames, transform=transform, sampling=sampling, random=train, cache=cache, features=features,
        )  # fmt: skip

    def __len__(self) -> int:
        return len(self.captions) if self.train else len(self.videos)

    def __getitem__(self, index: int) -> dict:
        if not self.train:
            return self.clip(index)
        for replaced in range(self.max_replacements + 1):
            video, caption = self.captions[index]
            try:
                clip = self.clip(video)
            except VideoError as error:
                broken = error
                index = int(torch.randint(len(self.captions), ()))
                logger.warning("%s; another pair takes this one's place", error)
                continue
            ids, mask = self.tokenizer.encode([caption], self.max_length)
            pair = {"input_ids": ids[0], "attention_mask": mask[0], "caption": caption, "replaced": replaced}
            return clip | pair | {"index": index}
        raise VideoError(f"{broken}; that was the last of {self.max_replacements} pairs that took another's place")


class QuestionDataset(VideoDataset):
    """A question annotation: the video's item with question, answer, question_id and label (−1: not in ans2label)."""

    def __init__(
        self,
        annotation: str | Path,
        answers: str | Path,
        root: str | Path,
        *,
        frames: int,
        transform: Callable[[Tensor], Tensor],
        sampling: Sampling = "uniform",
        train: bool = False,
        features: FeatureStore | None = None,
    ) -> None:
        self.questions, self.answers = load_questions(annotation), load_answers(answers)
        videos = [question.video for question in self.questions]
        _require_readable(annotation, videos, root, features)
        super().__init__(
            videos, root, frames=frames, transform=transform, sampling=sampling, random=train, features=features
        )

    def __getitem__(self, index: int) -> dict:
        _, question, answer, identity = self.questions[index]
        label = self.answers.get(answer, -1)
        return self.clip(index) | {"question": question, "answer": answer, "question_id": identity, "label": label}


def collate(items: list[dict]) -> dict:
    """A batch: tensors stacked, numbers as int64 (B,), `replaced` summed to an int, everything else as lists."""
    batch = {}
    for key, first in items[0].items():
        values = [item[key] for item in items]
        if key == "replaced":
            batch[key] = sum(values)
        elif isinstance(first, Tensor):
            batch[key] = torch.stack(values)
        else:
            batch[key] = torch.tensor(values) if key in ("index", "label") else values
    return batch


def _require_readable(
    annotation: str | Path, videos: list[str], root: str | Path, features: FeatureStore | None
) -> None:
    if features is None:
        return require_videos(annotation, videos, root)
    for number, video in enumerate(videos):
        if video not in features:
            raise ValueError(f"{annotation}: entry {number} is about {video}, whose tokens {features.folder} lacks")
