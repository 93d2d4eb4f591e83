"""The interface of a host, which is the model that Finsta post-trains."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from torch import Tensor, nn


class Widths(NamedTuple):
    """The widths of a host's hidden states."""

    text: int
    video: int
    cross: int | None
    """None if the host has no states that have seen both the text and the video"""


@dataclass(frozen=True)
class HostStates:
    """The hidden states of a host for B clips, each a video and a text. Gradients flow through them to the host."""

    text: Tensor
    """(B, L, Widths.text), the states of the words"""
    offsets: Tensor
    """(B, L, 2) int64, the characters [start, end) of the text that each word stands for; (0, 0) for padding and
    special tokens"""
    video: Tensor
    """(B, T, P, Widths.video), the states of the patches, row after row of the grid"""
    grid: tuple[int, int]
    """Rows and columns of the patches, P = rows · columns"""
    times: Tensor
    """(B, T) float64, seconds from the beginning of the clip. A state that covers several frames has their mean time"""
    cross: Tensor | None = None
    """(B, L, Widths.cross), the states of the words after they have seen the video"""


class Host(Protocol):
    """A video-language model with the few methods that Finsta calls. `model` alone is what is kept after training."""

    model: nn.Module
    """The model itself. Post-training changes its parameters and never their names or shapes."""
    widths: Widths

    def states(self, videos: Tensor, texts: Sequence[str], times: Tensor) -> HostStates:
        """The hidden states of B clips. videos: float32 (B, T, 3, S, S), prepared for the host; times: (B, T)."""
        ...

    def step(self, videos: Tensor, texts: Sequence[str], times: Tensor, numbers: Tensor) -> tuple[Tensor, HostStates]:
        """The host's own training loss, a scalar, and the hidden states that it had while it computed the loss.

        The first three arguments are those of `states`. numbers: int64 (B,), one number for all clips of a video.
        """
        ...

    def words(self, texts: Sequence[str]) -> Tensor:
        """One vector for each text, (n, Widths.text): the mean of the host's states of its words. n may be 0."""
        ...

    def similarity(self, videos: Tensor, texts: Sequence[str]) -> Tensor:
        """How well each video fits each text, (videos, texts) float32, as the host's own retrieval has it."""
        ...
