"""Computes the model's outputs for videos, captions and pairs, and keeps them in stores, each process its share.

The device holds the model and one batch at a time, for any number of videos and captions. The batches do not depend on
the number of processes, so the results are the same, to the last bit.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from stgt.config import to_dict
from stgt.data.batch_names import NumberedBatches
from stgt.data.fingerprint import FINGERPRINT, Fingerprint, data_differences
from stgt.data.loader import read_batches
from stgt.data.manifest.rows import Manifest
from stgt.data.samples import VideoDataset, collate
from stgt.data.store import Batches, Store, digest
from stgt.data.transforms import describe
from stgt.distributed import World
from stgt.files import tensors_hash
from stgt.integrity import DamagedError, require_finite_rows
from stgt.models.captioning import beam_captions, longest_caption
from stgt.runs import Run

logger = logging.getLogger(__name__)

TEXTS, PAIRS = 8, 4
"""A batch of texts is 8 times as large as a batch of videos, and a batch of pairs for the matching head 4 times"""


class Texts(NamedTuple):
    """Captions as token ids and attention masks, both int64 (M, L), on the CPU."""

    input_ids: Tensor
    attention_mask: Tensor


def model_digest(model: nn.Module, precision: str) -> str:
    """A name for a model's weights, settings and autocast. The folder of its outputs has this name."""
    return tensors_hash(model.state_dict(), json.dumps([to_dict(model.config), precision]))[:16]


def clips_fingerprint(clips: VideoDataset, contents: bool = False) -> Fingerprint:
    """The files and the manifest of the clips. contents: whether to compare contents in place of times of change."""
    files, videos = {}, clips.videos.files()
    if isinstance(clips.videos, Manifest):
        files, videos = {"manifest": clips.videos.annotation}, [*videos, *clips.videos.single_files()]
    return Fingerprint.take(files, videos, clips.root, decoder=clips.decoder_version, contents=contents)


def clips_digest(clips: VideoDataset, fingerprint: Fingerprint) -> str:
    """A name for the clips that a model sees: their files, manifest, decoder, frames and transform."""
    return digest(fingerprint.sha256(), list(clips.videos), clips.frames, clips.sampling, describe(clips.transform))


@torch.inference_mode()
def encode_videos(
    model: nn.Module,
    clips: VideoDataset,
    folder: Path,
    world: World,
    *,
    batch_size: int = 32,
    workers: int = 0,
    contents: bool = False,
) -> Store:
    """Encode every clip to embeds (V, S, C), which the matching head reads, and queries (V, Q, E), unit vectors.

    contents: whether files are identified by their contents in place of their time of change.
    Raises VideoError if a video cannot be read, and ValueError, which names the video, if the model's output for it is
    not finite. The batches before it are kept. If files have changed since they were encoded, or another decoder read
    them, they are encoded again, and a warning lists the differences.
    """
    fingerprint = clips_fingerprint(clips, contents)
    place = folder / f"videos-{clips_digest(clips, fingerprint)}-{batch_size}"
    if world.is_main and not (place / FINGERPRINT).exists():
        _warn_of_others(folder, fingerprint)
        fingerprint.save(place / FINGERPRINT)
    store = Store(place, NumberedBatches(len(clips.videos), batch_size))

    def compute(names: Iterator[str]) -> Batches:
        for batch in read_batches(clips, map(store.items, names), workers=workers, collate=collate):
            inputs = {key: batch[key].to(_device(model)) for key in ("video", "tokens") if key in batch}
            features = model.encode_video(**inputs)
            require_finite_rows(features.queries, batch["path"], "the model's queries")
            yield {"embeds": features.embeds, "queries": features.queries}

    store.fill(compute, world, what="videos")
    return store


def _warn_of_others(folder: Path, fingerprint: Fingerprint) -> None:
    """Log why stores of videos with the same names are not used."""
    for place in sorted(folder.glob("videos-*")):
        try:
            then = Fingerprint.load(place / FINGERPRINT)
        except (OSError, DamagedError):
            logger.warning("%s has no readable record of its videos and decoder, and is not used", place)
            continue
        if then.names == fingerprint.names and (changes := data_differences(fingerprint, then)):
            logger.warning("%s is not used, because its videos have changed:\n  %s", place, "\n  ".join(changes))


@torch.inference_mode()
def encode_texts(model: nn.Module, texts: Texts, folder: Path, world: World, *, batch_size: int = 32) -> Store:
    """Encode every caption to features (M, E), unit vectors."""
    size = TEXTS * batch_size
    store = Store(folder / f"texts-{digest(*texts)}-{size}", NumberedBatches(len(texts.input_ids), size))

    def compute(names: Iterator[str]) -> Batches:
        for items in map(store.items, names):
            part = (tensor[items.start : items.stop].to(_device(model)) for tensor in texts)
            yield {"features": model.encode_text(*part)}

    store.fill(compute, world, what="captions")
    return store


@torch.inference_mode()
def caption_ids(
    model: nn.Module, videos: Store, folder: Path, world: World, *, end: int, beams: int = 3, batch_size: int = 32
) -> Tensor:
    """The token ids of a caption for each video, by beam search: int64 (V, `longest_caption`), filled up with `end`."""
    length = longest_caption(model.config.qformer)
    key = digest(videos.folder.name, end, beams, length)
    store = Store(folder / f"captions-{key}", NumberedBatches(len(videos), batch_size))

    def compute(names: Iterator[str]) -> Batches:
        for items in map(store.items, names):
            embeds = videos.rows("embeds", items).to(_device(model))
            ids = beam_captions(model, embeds, end=end, beams=beams, max_length=length)
            yield {"ids": nn.functional.pad(ids, (0, length - ids.shape[1]), value=end)}

    store.fill(compute, world, what="captions of videos")
    return store.all("ids")


@torch.inference_mode()
def similarities(
    model: nn.Module, videos: Store, texts: Store, folder: Path, world: World, *, batch_size: int = 32
) -> Tensor:
    """The similarity of all videos with all captions: float32 (V, M), which has to fit into memory."""
    key = digest(videos.folder.name, texts.folder.name)
    store = Store(folder / f"similarity-{key}", NumberedBatches(len(videos), batch_size))
    features = texts.all("features").split(TEXTS * batch_size)

    def compute(names: Iterator[str]) -> Batches:
        for items in map(store.items, names):
            queries = videos.rows("queries", items).to(_device(model))
            row = [model.similarity(queries, part.to(_device(model))).float().cpu() for part in features]
            yield {"similarity": torch.cat(row, dim=1)}

    store.fill(compute, world, what="similarity")
    return store.all("similarity")


@torch.inference_mode()
def match_logits(
    model: nn.Module,
    videos: Store,
    texts: Texts,
    pairs: Tensor,
    folder: Path,
    world: World,
    *,
    batch_size: int = 32,
) -> Tensor:
    """Logits of "does not match" and "matches", float32 (n, 2), for pairs, int64 (n, 2), of a video and a caption.

    If the pairs are in the order of videos, the embeds of each video are read from the disk about once. Memory and
    device hold the embeds of one batch of 4·batch_size pairs at a time.
    """
    key = digest(videos.folder.name, *texts, pairs)
    store = Store(folder / f"matches-{key}-{batch_size}", NumberedBatches(len(pairs), 8 * PAIRS * batch_size))

    def compute(names: Iterator[str]) -> Batches:
        for items in map(store.items, names):
            parts = pairs[items.start : items.stop].split(PAIRS * batch_size)
            yield {"logits": torch.cat([match_pairs(model, videos, texts, part) for part in parts])}

    store.fill(compute, world, what="matching")
    return store.all("logits")


@torch.inference_mode()
def match_pairs(model: nn.Module, videos: Store, texts: Texts, pairs: Tensor) -> Tensor:
    """The logits of `match_logits` for one batch of pairs, without a store."""
    video, text = pairs.unbind(1)
    distinct, place = video.unique(return_inverse=True)
    device = _device(model)
    embeds = videos.rows("embeds", distinct.tolist()).to(device)
    chosen = (tensor[text].to(device) for tensor in texts)
    return model.match(embeds, *chosen, rows=place.to(device)).float().cpu()


def _device(model: nn.Module) -> torch.device:
    return next(model.parameters()).device


def tokenize(run: Run, captions: list[str]) -> Texts:
    """Captions as token ids for the run's model."""
    return Texts(*run.tokenizer.encode(captions, run.config.model.qformer.max_text_length))
