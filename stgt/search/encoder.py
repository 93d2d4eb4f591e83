"""The interface of an index's model, for the models of `stgt` and for any CLIP of open_clip."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from stgt.data.windows import Pixels, WindowPixels
from stgt.distributed import choose_device
from stgt.evaluation.encode import model_digest
from stgt.paths import given_path
from stgt.retriever import Retriever
from stgt.runs import precision
from stgt.search import open_clip_model

OPEN_CLIP = "openclip:"


class Encoder(Protocol):
    """A model that gives vectors of windows and of sentences, which can be compared."""

    name: str
    """The name by which `open_encoder` finds the model again"""
    pixels: Pixels

    @property
    def digest(self) -> str:
        """A name for the weights and settings. Vectors of models with different names are not comparable."""
        ...

    def encode_windows(self, windows: WindowPixels) -> Tensor:
        """Unit vectors of W windows, Q for each: float32 (W, Q, E), on the CPU."""
        ...

    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        """Unit vectors of sentences: float32 (N, E), on the CPU."""
        ...


class ChunkEncoder:
    """The vectors of a chunk from the arrays of `stgt.data.windows.read_chunk`. It can be sent to another process."""

    def __init__(self, encoder: Encoder) -> None:
        self._encoder, self.network = encoder, getattr(encoder, "network", None)

    def __call__(self, pixels: np.ndarray, rows: np.ndarray) -> Tensor:
        return self._encoder.encode_windows(WindowPixels(torch.from_numpy(pixels), torch.from_numpy(rows)))


class RetrieverEncoder:
    """A retrieval model of `stgt`, which gives Q query vectors for each window."""

    def __init__(self, retriever: Retriever, name: str) -> None:
        self.name, self._retriever = name, retriever
        data, vision = retriever.run.config.data, retriever.run.config.model.vision
        self.pixels = Pixels(data.frames, vision.sizes.image_size, decoding=data.decoding)

    @property
    def network(self) -> nn.Module:
        """The model itself, which can be moved to another device."""
        return self._retriever.run.model

    @cached_property
    def digest(self) -> str:
        run = self._retriever.run
        return model_digest(run.model, run.config.precision)

    @torch.inference_mode()
    def encode_windows(self, windows: WindowPixels) -> Tensor:
        run = self._retriever.run
        with precision(run):
            clips = windows.pixels[windows.rows].to(run.device)
            return run.model.encode_video(clips).queries.float().cpu()

    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        return self._retriever.embed_texts(texts)


class OpenClipEncoder:
    """A CLIP of open_clip. The vector of a window is the mean of the vectors of its frames, so Q is 1."""

    def __init__(self, name: str, device: str = "auto", frames: int = 8) -> None:
        """name: ARCHITECTURE/WEIGHTS, where the weights are one of open_clip's tags, or a file."""
        self._clip = open_clip_model.load(name, choose_device(device))
        self.name = OPEN_CLIP + self._clip.name
        self.pixels = Pixels(frames, self._clip.size, self._clip.crop, self._clip.mean, self._clip.std)

    @property
    def network(self) -> nn.Module:
        """The model itself, which can be moved to another device."""
        return self._clip.model

    @cached_property
    def digest(self) -> str:
        return self._clip.digest()

    @torch.inference_mode()
    def encode_windows(self, windows: WindowPixels) -> Tensor:
        vectors = self._clip.encode_images(windows.pixels)
        return torch.nn.functional.normalize(vectors[windows.rows].mean(1), dim=-1)[:, None]

    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        return self._clip.encode_texts(list(texts))


def open_encoder(name: str | Path | Retriever, *, device: str = "auto", tokenizer: str | None = None) -> Encoder:
    """The encoder with a name: `openclip:ARCHITECTURE/WEIGHTS`, or a name that `stgt.load` takes.

    Raises ValueError, OSError or CheckpointError if there is no such model; the message says what was expected.
    """
    if isinstance(name, Retriever):
        return RetrieverEncoder(name, str(name.run.checkpoint.resolve()))
    text = str(name)
    if text.startswith(OPEN_CLIP):
        return OpenClipEncoder(text.removeprefix(OPEN_CLIP), device)
    place = given_path(text)
    there = place.exists()
    if not there and open_clip_model.is_architecture(text.partition("/")[0]):
        raise ValueError(f"model is {text}, expected {OPEN_CLIP}ARCHITECTURE/WEIGHTS for a CLIP of open_clip")
    kept = str(place.resolve()) if there else text
    return RetrieverEncoder(Retriever(text, device=device, tokenizer=tokenizer), kept)
