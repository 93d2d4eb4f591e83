"""A trained model for use from Python. It turns files and sentences into vectors that can be compared."""

from __future__ import annotations

import itertools
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from stgt import hub
from stgt.data.pixels import read_pixels
from stgt.distributed import choose_device
from stgt.paths import given_path
from stgt.runs import find_model, open_retrieval, precision, save_model


class Retriever:
    """Embeds videos and texts with a retrieval model, as `stgt evaluate` and `stgt search` do.

    `run` holds its parts: `run.model`, `run.tokenizer` and `run.config`.
    """

    def __init__(self, name: str | Path, *, device: str = "auto", tokenizer: str | None = None) -> None:
        """See `stgt.load`."""
        self.run = open_retrieval(find_model(name).folder, device, tokenizer)

    @property
    def device(self) -> torch.device:
        """The device that the model runs on."""
        return self.run.device

    def to(self, device: torch.device | str) -> Retriever:
        """Move the model to another device; "auto" is a GPU where there is one.

        Raises ValueError for a device that torch does not know or does not have.
        """
        self.run.model.to(choose_device(str(device)))
        return self

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the model, its tokenizer, its precision and its number of frames to a folder that `stgt.load` opens.

        A model that this wrote before is replaced. `stgt convert` writes the same folder from a run.
        Raises ValueError for a folder that holds a run or files of another model.
        """
        save_model(self.run, given_path(folder))

    def push_to_hub(self, name: str, *, private: bool = False, token: str | None = None) -> str:
        """Upload the model, its tokenizer and a generated card to the Hugging Face hub; see `stgt.hub.push`.

        Afterwards `stgt.load(name)` loads this model on any machine. Returns the address of the commit.
        """
        return hub.push(self.run, name, private=private, token=token)

    @torch.inference_mode()
    def embed_videos(self, paths: Sequence[str | Path], *, batch_size: int = 8) -> Tensor:
        """Unit vectors of videos, Q for each video: float32 (V, Q, E), on the CPU.

        Images count as videos of one frame. Raises VideoError for a file that cannot be read, and ValueError if paths
        is no list of paths, or batch_size is below 1.
        """
        _require_list("paths", paths, (str, os.PathLike), "paths")
        _require_batch(batch_size)
        data, size = self.run.config.data, self.run.config.model.vision.sizes.image_size
        clips = (read_pixels(path, data.frames, size, **data.decoding) for path in paths)
        found = []
        with precision(self.run):
            for _, alike in itertools.groupby(clips, key=lambda clip: len(clip)):  # an image has one frame
                while batch := list(itertools.islice(alike, batch_size)):
                    found.append(self.run.model.encode_video(torch.stack(batch).to(self.device)).queries.float().cpu())
        return torch.cat(found)

    @torch.inference_mode()
    def embed_texts(self, texts: Sequence[str], *, batch_size: int = 256) -> Tensor:
        """Unit vectors of sentences: float32 (N, E), on the CPU.

        Raises ValueError if texts is no list of strings, or batch_size is below 1.
        """
        _require_list("texts", texts, str, "strings")
        _require_batch(batch_size)
        length = self.run.config.model.qformer.max_text_length
        found = []
        with precision(self.run):
            for start in range(0, len(texts), batch_size):
                words = self.run.tokenizer.encode(list(texts[start : start + batch_size]), length)
                found.append(self.run.model.encode_text(*(part.to(self.device) for part in words)).float().cpu())
        return torch.cat(found)

    @torch.inference_mode()
    def similarity(self, videos: Tensor, texts: Tensor) -> Tensor:
        """The similarity of videos (V, Q, E) and texts (N, E): float32 (V, N), at most 1.

        It is the largest cosine between the text's vector and the Q vectors of the video. Vectors in half or double
        precision are converted to float32. Raises ValueError for tensors of other shapes or dtypes.
        """
        width = self.run.config.model.qformer.embed_dim
        _require_vectors("videos", videos, 3, f"(V, Q, {width})", width)
        _require_vectors("texts", texts, 2, f"(N, {width})", width)
        return self.run.model.similarity(videos.to(self.device).float(), texts.to(self.device).float()).cpu()


def _require_list(name: str, values: object, kinds: type | tuple[type, ...], described: str) -> None:
    one = isinstance(values, (str, bytes, os.PathLike, Mapping))
    if one or not hasattr(values, "__len__") or not hasattr(values, "__getitem__") or not len(values):
        raise ValueError(f"{name} is {values!r}, expected a list with at least one entry")
    for value in values:
        if not isinstance(value, kinds):
            raise ValueError(f"{name} holds {value!r}, expected {described}")


def _require_batch(size: object) -> None:
    if not isinstance(size, int) or size < 1:
        raise ValueError(f"batch_size is {size!r}, expected a whole number of at least 1")


def _require_vectors(name: str, vectors: object, dimensions: int, shape: str, width: int) -> None:
    if not isinstance(vectors, Tensor):
        raise ValueError(f"{name} is a {type(vectors).__name__}, expected a tensor {shape}")
    if vectors.layout != torch.strided or vectors.is_meta:
        got = f"a tensor in the layout {vectors.layout} on {vectors.device}"
        raise ValueError(f"{name} is {got}, expected dense numbers")
    whole = vectors.ndim == dimensions and vectors.shape[-1] == width and 0 not in vectors.shape[1:]
    if not whole or not vectors.is_floating_point():
        raise ValueError(f"{name} is {tuple(vectors.shape)} {vectors.dtype}, expected floating point {shape}")
