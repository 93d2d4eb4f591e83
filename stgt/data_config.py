"""The settings of a run's data."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from stgt.fields import COUNT, LONGEST, WORDS, require, require_counts, require_types

Sampling = Literal["uniform", "headtail"]
Decoder = Literal["auto", "pyav", "decord"]

MAX_PIXELS = 50_000_000
"""Default for the pixels of the largest frame or image that is decoded. A frame of 8K video has 33 million."""
DEADLINE = 60.0
"""Default for the seconds that reading one file may take."""


@dataclass
class DataConfig:
    """The clips and captions, and the way in which they are read."""

    train: Path = Path("data/train.json")
    """Annotation of the training pairs"""
    val: Path | None = None
    """Annotation by which the best checkpoint is chosen, after each epoch; without it, the last one is used"""
    test: Path = Path("data/test.json")
    """Annotation that `stgt evaluate` and `stgt search` use; training never reads it"""
    videos: Path = Path("data/videos")
    """Folder that the annotations' video names are relative to"""
    bad_list: Path | None = None
    """Videos that training and validation leave out (`stgt data check`)"""
    answers: Path | None = None
    """ans2label.json of a question data set; if it is given, every answer has to be in it"""
    features: Path | None = None
    """Cache of the frozen tower's tokens (`stgt data features`), which training reads in place of the videos"""
    frames: int = 8
    """Number of frames of a clip that the model sees"""
    sampling: Sampling = "headtail"
    """The way in which training picks frames; evaluation spreads them uniformly"""
    tokenizer: str = "bert-base-uncased"
    """A tokenizer of the hub, a folder in which one was saved, or "train": WordPiece fitted to the training captions.
    For questions, the tokenizer of the language model is used instead"""
    tokenizer_size: int = 512
    """Largest number of words of a trained tokenizer"""
    decoder: Decoder = "auto"
    """The reader of videos: "pyav" (the same as "auto"), or "decord", which gives the frames of the released code"""
    max_pixels: int = MAX_PIXELS
    """A video or image whose frames have more pixels is refused before it is decoded"""
    deadline: float = DEADLINE
    """Seconds that reading one file may take"""
    augment: bool = True
    """Whether training uses random crops, flips and RandAugment; otherwise it sees the same frames as evaluation"""
    flip: bool = True
    """Whether augmentation flips frames; choose False if captions say left or right"""
    check_contents: bool = False
    """Whether videos are also compared by the SHA-256 of their contents, for which all of them are read"""
    cache: bool = False
    """Whether decoded frames stay in memory, for small data sets whose decoding takes longer than the model"""
    workers: int = 4
    """Number of processes that read clips"""
    max_replacements: int = 10
    """Number of pairs in a row that may be replaced because their videos are broken; the log counts them. In `stgt
    data features`, it is the number of broken videos of manifests in a row"""

    def __post_init__(self) -> None:
        require_types(self)
        require_counts(self, frames=LONGEST, tokenizer_size=WORDS, max_pixels=COUNT)
        require(self, "deadline", self.deadline > 0, "a positive number of seconds")
        require(self, "workers", 0 <= self.workers <= 1000, "at least 0 and at most 1000")
        require(self, "max_replacements", self.max_replacements >= 0, "at least 0")

    @property
    def decoding(self) -> dict:
        """Keyword arguments for `stgt.data.video.read_frames`."""
        return {"decoder": self.decoder, "max_pixels": self.max_pixels, "deadline": self.deadline}
