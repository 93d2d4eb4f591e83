"""The items that a run reads: videos, and pairs of a video with a caption or a question, as torch data sets."""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset

from stgt.data.annotations import load_bad_names, load_captions, load_questions, require_answers, require_videos
from stgt.data.entries import Question
from stgt.data.errors import StoreError
from stgt.data.features import FeatureStore
from stgt.data.manifest.cache import is_manifest, open_manifest
from stgt.data.manifest.rows import Manifest
from stgt.data.names import plain
from stgt.data.pixels import to_pixels
from stgt.data.shared_list import SharedList
from stgt.data.text import Tokenizer
from stgt.data.video import Clip, Sampling, VideoError, decoder_version, read_clip, sample_indices
from stgt.data.video_names import VideoNames
from stgt.data.words import predicted_places

logger = logging.getLogger(__name__)


class VideoDataset(Dataset):
    """Videos by number: item i is dict(video, times, index, path), or dict(tokens, index, path) with a feature cache.

    video: float32 (T, 3, S, S). T is 1 where `stills` says that the file is an image of one frame, and `frames`
    otherwise, even if a file with a video's ending holds only one frame. times: float64 (T,), seconds from the
    beginning of the file. tokens: bfloat16 (T, 1+P, C).
    random=True draws frames, augmentation and the cached view from torch's default generator only, so its seed decides
    the item; otherwise nothing is drawn. cache=True decodes all frames of all videos at the start and keeps them, which
    suits small sets. videos: names of files below `root`, or a manifest, whose shards are relative to `root`. decoding:
    further arguments of `stgt.data.video.read_frames`. A video that cannot be read raises VideoError when its item is
    asked for.
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
        decoding: Mapping[str, object] | None = None,
    ) -> None:
        self.decoding = dict(decoding or {})
        self.root = Path(root)
        if not isinstance(videos, Manifest):
            videos = VideoNames(videos, self.root, opened=features is None)
        self.videos: VideoNames | Manifest = videos
        self.frames, self.transform, self.sampling, self.random = frames, transform, sampling, random
        self.features = features
        numbers = range(len(self.videos))
        self._decoded = [self._decode(index) for index in numbers] if cache and features is None else None

    def __len__(self) -> int:
        return len(self.videos)

    @property
    def decoder_version(self) -> str:
        """The decoder that reads the videos, with its version. Feature caches have it in their key."""
        return decoder_version(self.decoding.get("decoder", "auto"))

    def opened(self, index: int) -> AbstractContextManager[Path]:
        """The file of a video, which is a temporary one if the video is in a shard."""
        return self.videos.opened(index, self.root)

    def __getitem__(self, index: int) -> dict:
        return self.clip(index)

    def clip(self, index: int) -> dict:
        """The video's item with number `index`. Subclasses may have other items of their own."""
        place = {"index": index, "path": str(self.root / self.videos[index])}
        if self.features is not None:
            view = int(torch.randint(self.features.views, ())) if self.random else 0
            names = dict(name=self.videos.described(index), root=self.root)
            return {"tokens": self.features.read(self.videos.place(index), view, **names), **place}
        frames, times = self._frames(index)
        return {"video": to_pixels(frames, self.transform), "times": times, **place}

    def _frames(self, index: int) -> Clip:
        rng = torch.default_generator if self.random else None
        if self._decoded is None:
            with self.opened(index) as path:
                clip = read_clip(path, self.frames, self.sampling, rng, **self.decoding)
        else:
            clip = self._cached(index, rng)
        if self.videos.still(index):
            if len(clip.frames) > 1:
                path = self.root / self.videos[index]
                raise VideoError(f"{path}: holds a video, expected an image, as the file's ending says")
            return clip
        if len(clip.frames) == 1:
            return Clip(clip.frames.expand(self.frames, -1, -1, -1), clip.times.expand(self.frames))
        return clip

    def _cached(self, index: int, rng: torch.Generator | None) -> Clip:
        decoded = self._decoded[index]
        if isinstance(decoded, VideoError):
            raise decoded
        frames, times = decoded
        if len(frames) > 1:
            chosen = sample_indices(len(frames), self.frames, self.sampling, rng)
            frames, times = frames[chosen], times[chosen]
        return Clip(torch.from_numpy(frames), torch.from_numpy(times))

    def _decode(self, index: int) -> tuple[np.ndarray, np.ndarray] | VideoError:
        """All frames and their times, or the error. They are arrays because a tensor that is sent to another process
        needs a file descriptor.
        """
        try:
            with self.opened(index) as path:
                clip = read_clip(path, None, **self.decoding)
            return clip.frames.numpy(), clip.times.numpy()
        except VideoError as error:
            return error


class PairDataset(VideoDataset):
    """Pairs of a video and a text, for training or for evaluation.

    train=True: item i is the i-th pair: the video's item, the fields that `said` makes from the text, `video_index` (a
    number for the video's name) and `replaced`. If the video cannot be read, another *pair*, drawn from torch's default
    generator, takes the place of this one, at most `max_replacements` times in a row. `replaced` counts them, and
    index, path and text belong to the new pair. `images` tells which pairs are about an image: an image is replaced by
    an image, because a batch can hold only one kind.
    train=False: item i is the i-th distinct video, and `pairs` lists (number of the video, text). Nothing is replaced:
    a video that cannot be read raises VideoError.
    entries: (video, texts) of each entry of the annotation, or a manifest without the videos of the bad list. No file
    of a manifest is looked up at the start; a missing one is a video that cannot be read. bad_list: the file that `stgt
    data check` wrote; entries about its videos are left out, and the log tells how many.
    Raises ValueError for an annotation whose video is missing, naming entry and path; for a video that the feature
    cache lacks; and, for evaluation, for an annotation that mixes images and videos, for a manifest that names a video
    twice, and for a video that could not be read when the feature cache was written.
    """

    def __init__(
        self,
        annotation: str | Path,
        entries: Sequence[tuple[str, Sequence[object]]] | Manifest,
        root: str | Path,
        *,
        frames: int,
        transform: Callable[[Tensor], Tensor],
        sampling: Sampling = "uniform",
        train: bool = False,
        max_replacements: int = 10,
        cache: bool = False,
        features: FeatureStore | None = None,
        bad_list: str | Path | None = None,
        decoding: Mapping[str, object] | None = None,
    ) -> None:
        self.train, self.max_replacements = train, max_replacements
        if isinstance(entries, Manifest):
            if not train:
                _require_single_rows(entries)
            videos, self.pairs, left_out, count = entries, entries.pairs, entries.left_out, entries.whole
        else:
            bad = load_bad_names(bad_list)
            if features is None:
                require_videos(annotation, [video for video, _ in entries], root, bad)
            numbers: dict[str, int] = {}
            kept = [(video, text) for video, texts in entries if video not in bad for text in texts]
            self.pairs = SharedList((numbers.setdefault(video, len(numbers)), text) for video, text in kept)
            videos, left_out, count = list(numbers), sum(video in bad for video, _ in entries), len(entries)
            if not train:
                _require_single_names(annotation, videos, root)
        if left_out:
            by = f"{bad_list} lists their videos" if bad_list else "its column bad says so"
            logger.warning("%s: %d of %d entries are left out, %s", annotation, left_out, count, by)
        if not self.pairs:
            raise ValueError(f"{annotation}: {bad_list} lists every video, expected one that is left")
        super().__init__(
            videos, root,
            frames=frames, transform=transform, sampling=sampling, random=train, cache=cache, features=features,
            decoding=decoding,
        )  # fmt: skip
        if features is not None:
            _require_tokens(annotation, self, features)
        if not train and len(self.videos.kinds()) > 1:
            image, video = (
                next(videos[number] for number in range(len(videos)) if self.videos.still(number) is kind)
                for kind in (True, False)
            )
            raise ValueError(
                f"{annotation}: {image} is an image and {video} is a video, expected all images or all videos: an "
                "annotation that mixes them can only be trained on"
            )

    @cached_property
    def images(self) -> Tensor:
        """Whether each pair is about an image of one frame: bool (pairs,)."""
        if isinstance(self.videos, Manifest):
            return self.videos.images
        return self.videos.stills[[number for number, _ in self.pairs]]

    def _video_number(self, index: int) -> int:
        """63 bits of a digest of a video's name, so that all entries and rows about one video have the same number."""
        name = plain(self.videos.identity(index))
        digest = hashlib.blake2b(name.encode("utf-8", "surrogateescape"), digest_size=8).digest()
        return int.from_bytes(digest, "big") >> 1

    def said(self, text: object) -> dict:
        """The fields that a pair's text adds to a training item."""
        raise NotImplementedError

    def __len__(self) -> int:
        return len(self.pairs) if self.train else len(self.videos)

    def __getitem__(self, index: int) -> dict:
        if not self.train:
            return self.clip(index)
        for replaced in range(self.max_replacements + 1):
            video, text = self.pairs[index]
            try:
                facts = {"index": index, "video_index": self._video_number(video), "replaced": replaced}
                return self.clip(video) | self.said(text) | facts
            except StoreError:
                raise  # another pair would only hide that the store does not answer
            except VideoError as error:
                broken = error
                index = _drawn(self.images == self.images[index])
                logger.warning("%s; another pair takes the place of this one", error)
        raise VideoError(f"{broken}; all {self.max_replacements} pairs that were drawn in its place failed, too")


class RetrievalDataset(PairDataset):
    """A retrieval annotation: pairs of a video and a caption, in training with input_ids, attention_mask and caption.

    input_ids and attention_mask are int64 (L,). options: further arguments of PairDataset.
    The annotation is JSON, or a manifest in Parquet. Raises ValueError for a malformed one, naming the entry or row.
    """

    def __init__(
        self,
        annotation: str | Path,
        root: str | Path,
        *,
        tokenizer: Tokenizer | None = None,
        max_length: int = 32,
        **options: object,
    ) -> None:
        if options.get("train") and tokenizer is None:
            raise ValueError("tokenizer is None, expected one: training pairs hold the caption's token ids")
        self.tokenizer, self.max_length = tokenizer, max_length
        if is_manifest(annotation):
            entries = open_manifest(annotation, load_bad_names(options.get("bad_list")), kind="captions")
        else:
            entries = load_captions(annotation)
        super().__init__(annotation, entries, root, **options)

    @property
    def captions(self) -> Sequence[tuple[int, str]]:
        """(Number of the video, caption) of every pair."""
        return self.pairs

    def said(self, text: str) -> dict:
        ids, mask = self.tokenizer.encode([text], self.max_length)
        return {"input_ids": ids[0], "attention_mask": mask[0], "caption": text}


class QuestionDataset(PairDataset):
    """A question annotation: pairs of a video and a `Question`, in training with question, answer and question_id.

    answers: an ans2label.json that holds all answers; not checked if None. options: further arguments of PairDataset.
    The annotation is JSON, or a manifest in Parquet. Raises ValueError for a malformed one, naming the entry or row,
    and for an answer that `answers` lacks.
    """

    def __init__(
        self, annotation: str | Path, root: str | Path, *, answers: str | Path | None = None, **options: object
    ) -> None:
        if is_manifest(annotation):
            rows = entries = open_manifest(annotation, load_bad_names(options.get("bad_list")), kind="questions")
            given = entries.answers()
        else:
            rows, questions = None, load_questions(annotation)
            entries = [(question.video, [question]) for question in questions]
            given = (question.answer for question in questions)
        if answers is not None:
            require_answers(annotation, given, answers, rows)
        super().__init__(annotation, entries, root, **options)

    @property
    def questions(self) -> Sequence[tuple[int, Question]]:
        """(Number of the video, question) of every pair."""
        return self.pairs

    def said(self, text: Question) -> dict:
        return {"question": text.question, "answer": text.answer, "question_id": text.question_id}


def _drawn(chosen: Tensor) -> int:
    """One of the places where `chosen` is True, bool (n,), drawn from torch's default generator.

    The places are not listed, since those of ten million pairs would take 80 MB.
    """
    left = int(torch.randint(int(chosen.sum()), ()))
    for start in range(0, len(chosen), 1 << 16):
        places = chosen[start : start + (1 << 16)].nonzero().flatten()
        if left < len(places):
            return start + int(places[left])
        left -= len(places)
    raise AssertionError


def collate(items: list[dict]) -> dict:
    """A batch of items: tensors are stacked, indices become int64 (B,), `replaced` is summed, the rest become lists.

    Texts are padded to the longest of the batch. Their mask is 0 at the padding, so its ids do not matter. With texts
    there is also `predicted`, the places of their words.
    """
    batch = {}
    for key, first in items[0].items():
        values = [item[key] for item in items]
        if key == "replaced":
            batch[key] = sum(values)
        elif key in ("input_ids", "attention_mask"):
            batch[key] = pad_sequence(values, batch_first=True)
        elif isinstance(first, Tensor):
            batch[key] = torch.stack(values)
        else:
            batch[key] = torch.tensor(values) if key in ("index", "video_index") else values
    if "attention_mask" in batch:
        batch["predicted"] = predicted_places(batch["attention_mask"])
    return batch


def _require_single_rows(manifest: Manifest) -> None:
    if twice := [video for video, count in Counter(map(plain, manifest.identities())).items() if count > 1]:
        raise ValueError(
            f"{manifest.annotation}: {twice[0]} is in several rows, expected one row with all of its captions or "
            "questions, because evaluation counts videos"
        )


def _require_single_names(annotation: str | Path, videos: Sequence[str], root: str | Path) -> None:
    names: dict[str, str] = {}
    for video in videos:
        if (first := names.setdefault(plain(str(Path(root) / video)), video)) != video:
            raise ValueError(
                f"{annotation}: {first} and {video} are one file, expected one name for it, because evaluation counts "
                "videos"
            )


def _require_tokens(annotation: str | Path, items: PairDataset, features: FeatureStore) -> None:
    if (absent := features.table.first_absent(items.videos.places())) is not None:
        raise ValueError(f"{annotation}: {features.lacks(items.videos.described(absent))}")
    if not items.train and (unread := features.unread_among(items.videos.places())):
        more = f" ({len(unread)} of {len(items.videos)} videos are)" if len(unread) > 1 else ""
        raise ValueError(
            f"{annotation}: {items.videos.described(unread[0])} was listed as bad or could not be read when its tokens "
            f"in {features.folder} were computed{more}, and validation replaces no video: list it in --data.bad-list"
        )
