"""An index of the moments of videos, which answers in milliseconds."""

from __future__ import annotations

from functools import cached_property
from numbers import Integral
from pathlib import Path
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from stgt.arguments import require_flag, require_number, require_whole
from stgt.data.cuts import Window
from stgt.data.images import holds_image
from stgt.data.video import DEADLINE, require_before_end, require_window
from stgt.data.windows import WHOLE, read_windows, windows_of
from stgt.integrity import require_finite_rows
from stgt.paths import given_path
from stgt.retriever import Retriever
from stgt.search import build
from stgt.search.approximate import EXACT_UP_TO
from stgt.search.build import Changes
from stgt.search.encoder import Encoder, open_encoder
from stgt.search.manifest import FILE, Manifest
from stgt.search.packed import Packed
from stgt.search.ranking import best_apart, exact_scores
from stgt.search.sentence import require_sentence

T = TypeVar("T")
WINDOW, STRIDE = 8.0, 4.0
"""Defaults in seconds"""


class Moment(NamedTuple):
    """An answer: a part of a video."""

    path: Path
    start: float
    """Seconds from the beginning of the video"""
    end: float
    """Seconds from the beginning of the video"""
    score: float
    """At most 1; see `stgt.search.ranking`"""


class Index:
    """The windows of many videos as vectors of one model, in a folder that is opened once and memory-mapped.

    Answers are moments, and those of one file do not overlap.
    """

    def __init__(
        self,
        path: str | Path,
        model: str | Path | Retriever | Encoder | None = None,
        *,
        device: str = "auto",
        tokenizer: str | None = None,
    ) -> None:
        """Open an index, or name a new one, which `update` makes.

        path: the index's folder, such as "films.index". model: a model of `stgt.load`, its name, or
        "openclip:ARCHITECTURE/WEIGHTS" for any CLIP of open_clip; the index's own model if None. device, tokenizer: see
        `stgt.load`. The model is loaded when it is first needed.
        Raises ValueError if there is no index and no model is given, and DamagedError for a damaged index.
        """
        self.path, self._model, self._options = given_path(path), model, {"device": device, "tokenizer": tokenizer}
        self._packed = Packed(self.path) if (self.path / FILE).exists() else None
        if self._packed is None and model is None:
            Manifest.load(self.path)  # this raises the error that says what is wrong

    def __len__(self) -> int:
        """The number of windows."""
        return 0 if self._packed is None else self._packed.manifest.windows

    @property
    def files(self) -> list[Path]:
        """The files in the index, in alphabetical order."""
        return [] if self._packed is None else [Path(film.path) for film in self._packed.manifest.films]

    @property
    def broken(self) -> dict[Path, str]:
        """The files that could not be read, and why."""
        return {} if self._packed is None else {Path(p): why for p, why in self._packed.manifest.broken.items()}

    @property
    def manifest(self) -> Manifest:
        """The settings and files of the index. Raises ValueError for an index that is new."""
        return self._open.manifest

    @cached_property
    def encoder(self) -> Encoder:
        """The model. Raises ValueError if it is not the one that made the index."""
        model = self._model
        if model is None:
            model = self._open.manifest.settings.model
        encoder = model if hasattr(model, "encode_windows") else open_encoder(model, **self._options)
        if self._packed is not None and encoder.digest != (then := self._packed.manifest.settings).digest:
            raise ValueError(
                f"{self.path} was made with the model {then.model}, and the weights or settings of {encoder.name} are "
                "others; expected the same model, or remove the index"
            )
        return encoder

    def update(
        self,
        *folders: str | Path,
        window: float | None = None,
        stride: float | None = None,
        shots: bool | None = None,
        workers: int = 2,
        ray: bool = False,
        timeout: float = DEADLINE,
        exact_up_to: int = EXACT_UP_TO,
    ) -> Changes:
        """Bring the index up to date with the videos in some folders, or in those of the last time if none is given.

        Only new and changed files are read, and not those that were only moved to another folder. Files that are gone,
        or lie in none of the folders, are removed from the index. Those in a folder that cannot be read stay. A file
        that cannot be read is left out, listed in `broken`, and tried again the next time. An update that was killed
        goes on where it stopped.
        window, stride: seconds of a window, and between the beginnings of windows; those of the index if None, and 8
        and 4 for a new one. shots: whether videos are cut at shots first, so that each window ends with its shot; as in
        the index if None, and not for a new one. workers: processes that read videos. ray: whether the machines of a
        Ray cluster read and encode instead (the extra `scale`). timeout: seconds that 16 windows, or finding the shots
        in a minute of video, may take.
        exact_up_to: an index with more windows is searched with IVF-PQ of faiss (the extra `faiss`), which may miss an
        answer, and otherwise exactly.
        A script calls this under `if __name__ == "__main__":`, because the processes import the script again.
        Raises ValueError if an argument has another type or is out of range, if there is no video that can be read, or
        if window, stride, shots or model are not those of the index, OwnedError if another process updates it, OSError
        if it cannot be written, and UnguardedError for a script that calls this outside of the guard.
        """
        for name, value in (("window", window), ("stride", stride), ("timeout", timeout)):
            if value is not None or name == "timeout":
                require_number(name, value, "a positive number of seconds")
        if not timeout > 0:
            raise ValueError(f"timeout is {timeout}, expected a positive number of seconds")
        require_flag("shots", False if shots is None else shots)
        require_flag("ray", ray)
        require_whole("workers", workers)
        require_whole("exact_up_to", exact_up_to)
        then = None if self._packed is None else self._packed.manifest
        if not folders and then is None:
            raise ValueError(f"folders: got none, expected at least one, because {self.path} is new")
        changes = build.update(
            self.path,
            self.encoder,
            [given_path(folder) for folder in folders or then.folders],
            window=_first_given(window, then and then.settings.window, WINDOW),
            stride=_first_given(stride, then and then.settings.stride, STRIDE),
            shots=_first_given(shots, then and then.settings.shots, False),
            workers=workers,
            ray=ray,
            timeout=timeout,
            exact_up_to=exact_up_to,
        )
        self._packed = Packed(self.path)
        return changes

    def search(self, text: str, *, top: int = 5) -> list[Moment]:
        """The moments that fit a sentence best, the best one first.

        top: the most moments to return, at least 1; there are fewer of them if the index has fewer.
        Raises ValueError for a text without words, a top below 1, and an index that is new.
        """
        require_sentence(text)
        return self.nearest(self.encoder.encode_texts([text])[0][None], top=top)

    def search_video(
        self, path: str | Path, *, start: float = 0.0, end: float | None = None, top: int = 5
    ) -> list[Moment]:
        """The moments that are most like a picture, or a part of a clip from `start` to `end` in seconds.

        The part is encoded as one window. top: see `search`.
        Raises VideoError if the file cannot be read, and ValueError for times that make no sense, a start after the end
        of the clip, a top below 1, and an index that is new.
        """
        return self.nearest(self.encode_video(path, start=start, end=end), top=top)

    def encode_video(self, path: str | Path, *, start: float = 0.0, end: float | None = None) -> Tensor:
        """The vectors of a picture, or of a part of a clip, for `nearest`: float32 (Q, E).

        All parts of a picture are the whole picture. Errors are those of `search_video`.
        """
        require_window(start, end)
        path, start = given_path(path), 0.0 if start is None else start
        pixels = self.encoder.pixels
        last = windows_of(path, WHOLE, WHOLE, pixels)[-1].end
        if not holds_image(path):
            require_before_end(path, start, last)
        read = read_windows(path, [Window(start, last if end is None else end)], pixels)
        return self.encoder.encode_windows(read)[0]

    def like(self, moment: Moment, *, top: int = 5) -> list[Moment]:
        """The moments that are most like a moment of this index, without itself and those that overlap it.

        top: see `search`. Raises ValueError if the moment is none of the index's windows, and for a top below 1.
        """
        opened = self._open
        if not isinstance(moment, Moment):
            raise ValueError(f"moment is {moment!r}, expected one that this index has given as an answer")
        if (film := opened.manifest.by_path.get(str(moment.path))) is not None:
            rows = opened.rows(film)
            for row, (start, end) in enumerate(rows.times.tolist()):
                if (start, end) == (moment.start, moment.end):
                    return self.nearest(rows.vectors[row].float(), top=top, apart_from=opened.number(film, row))
        raise ValueError(f"moment is {moment}, expected one that this index has given as an answer")

    def nearest(self, query: Tensor, *, top: int = 5, apart_from: int | None = None) -> list[Moment]:
        """The moments whose windows have the highest scores.

        query: float32 (K, E), unit vectors; see `stgt.search.ranking`. top: see `search`. apart_from: number of a
        window; it and the windows that overlap it are no answers.
        Raises ValueError unless top is positive, apart_from is the number of a window, and the query has this shape and
        finite numbers, and DamagedError if the vectors of an answer have changed.
        """
        if not isinstance(top, int) or top < 1:
            raise ValueError(f"top is {top!r}, expected a whole number of at least 1")
        opened = self._open
        if not isinstance(query, Tensor) or query.layout != torch.strided or query.is_meta:
            raise ValueError(f"query is {query!r}, expected a dense tensor with values")
        if query.dim() != 2 or not len(query) or query.shape[1] != opened.width:
            raise ValueError(f"query is {tuple(query.shape)}, expected (K, {opened.width}) with K of at least 1")
        if apart_from is not None and not (isinstance(apart_from, Integral) and opened.holds(apart_from)):
            raise ValueError(f"apart_from is {apart_from!r}, expected the number of a window")
        require_finite_rows(query, ["the query"] * len(query), "the model's vectors")
        known = [] if apart_from is None else [apart_from]
        wanted = 4 * top + 16
        while True:
            rows = opened.candidates(query, wanted)
            chosen = best_apart([*known, *rows], top + len(known), opened.window)[len(known) :]
            if len(chosen) == top or len(rows) < wanted:
                break
            wanted *= 4
        return [self._answer(opened, row, query) for row in chosen]

    @staticmethod
    def _answer(opened: Packed, number: int, query: Tensor) -> Moment:
        film, row = opened.film_of(number)
        rows = opened.rows(film)
        score = exact_scores(rows.vectors[row : row + 1], query).item()
        # Vectors that were rounded to half precision may be a little longer than 1.
        return Moment(Path(film.path), *rows.times[row].tolist(), min(score, 1.0))

    @property
    def _open(self) -> Packed:
        if self._packed is None:
            raise ValueError(f"{self.path} is new, expected `update` with a folder of videos first")
        return self._packed


def _first_given(*values: T | None) -> T:
    return next(value for value in values if value is not None)
