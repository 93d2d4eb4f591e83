"""Searches for the videos that fit a sentence, or for the sentences that fit a video."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from stgt.config import K_TEST
from stgt.data.annotations import load_captions
from stgt.data.lines import read_lines
from stgt.data.manifest.cache import is_manifest
from stgt.data.store import Store
from stgt.distributed import World
from stgt.evaluation.encode import encode_texts, encode_videos, match_pairs, model_digest, tokenize
from stgt.evaluation.metrics import shortlist
from stgt.evaluation.retrieval import own_scores
from stgt.runs import Run, data_of, precision, read_video_pixels
from stgt.search.folder import index_folder
from stgt.search.sentence import require_sentence
from stgt.terminal import say
from stgt.weights.pretrained import is_pretrained


class Hit(NamedTuple):
    """A result: a video's file or a sentence, and its score.

    The score is the similarity, at most 1. For re-ranked results, the matching score is added to it.
    """

    found: Path | str
    score: float
    opened: Callable[[], AbstractContextManager[Path]] | None = None
    """Gives the file of a video for the length of a block: `found` only names a video that lies in a shard"""


def rank(
    similarity: Tensor, match: Callable[[Tensor], Tensor], *, top: int = 5, k_test: int = K_TEST
) -> list[tuple[int, float]]:
    """The `top` items of one query and their scores, in the order in which `stgt evaluate` ranks them.

    similarity: (G,). match: a function from items, int64 (n,), to their matching scores (n,). It is called for the
    `k_test` most similar items.
    Raises ValueError unless top is positive.
    """
    if top < 1:
        raise ValueError(f"top is {top}, expected at least 1")
    order = shortlist(similarity[None], len(similarity))[0]
    best, rest = order[:k_test], order[k_test:]
    scores = similarity.clone()
    if len(best):
        scores[best] += match(best)
        best = best[scores[best].sort(descending=True, stable=True).indices]
    return [(int(item), float(scores[item])) for item in torch.cat([best, rest])[:top]]


@torch.inference_mode()
def find_videos(run: Run, sentence: str, videos: Path | None, features: Path, *, top: int = 5) -> list[Hit]:
    """The videos of a folder, or of the run's test split, that fit a sentence best.

    features: the folder in which encoded videos are kept. Raises ValueError for a sentence without words.
    """
    require_sentence(sentence)
    with precision(run):
        paths, opened, store = _videos(run, videos, features)
        text = tokenize(run, [sentence])
        query = run.model.encode_text(*(tensor.to(run.device) for tensor in text))
        similarity = run.model.similarity(store.all("queries").to(run.device), query)[:, 0].float().cpu()

        def match(items: Tensor) -> Tensor:
            pairs = torch.stack([items, torch.zeros_like(items)], dim=1)
            return own_scores(run.model, match_pairs(run.model, store, text, pairs))

        order = rank(similarity, match, top=top, k_test=_k_test(run))
        return [Hit(paths[item], score, partial(opened, item)) for item, score in order]


@torch.inference_mode()
def find_captions(run: Run, video: Path, captions: Path | None, features: Path, *, top: int = 5) -> list[Hit]:
    """The sentences of a text file or an annotation, or of the run's test split, that fit a video best.

    features: the folder in which encoded sentences are kept.
    """
    if captions is None and is_pretrained(run.checkpoint):
        raise ValueError(
            f"{run.checkpoint} holds a model and names no captions, expected --captions with a file of captions"
        )
    sentences = read_sentences(captions or run.config.data.test)
    with precision(run):
        clip, texts = run.model.encode_video(read_video_pixels(run, video)), tokenize(run, sentences)
        world = World(0, 1, run.device)
        encoded = encode_texts(run.model, texts, _kept(run, features), world).all("features")
        similarity = run.model.similarity(clip.queries, encoded.to(run.device))[0].float().cpu()

        def match(items: Tensor) -> Tensor:
            chosen = (tensor[items].to(run.device) for tensor in texts)
            logits = run.model.match(clip.embeds, *chosen, rows=torch.zeros_like(items).to(run.device))
            return own_scores(run.model, logits.float().cpu())

        return [Hit(sentences[item], score) for item, score in rank(similarity, match, top=top, k_test=_k_test(run))]


def read_sentences(path: Path) -> list[str]:
    """The distinct captions of an annotation in JSON or a manifest, or the distinct lines of any other text file.

    Raises ValueError if the file does not exist, is not UTF-8, or holds no sentence.
    """
    if path.suffix.lower() == ".json" or is_manifest(path):
        return list(dict.fromkeys(caption for clip in load_captions(path) for caption in clip.captions))
    sentences = list(dict.fromkeys(line.strip() for line in read_lines(path) if line.strip()))
    if not sentences:
        raise ValueError(f"{path} holds no sentence, expected one on each line")
    return sentences


def _k_test(run: Run) -> int:
    """The number of results that are re-ranked: none if the matching head was not trained."""
    return 0 if "matching" in run.training.untrained else K_TEST


def _kept(run: Run, features: Path) -> Path:
    """The folder for the outputs of this model, which `stgt evaluate` uses as well."""
    return features / model_digest(run.model, run.config.precision)


def _videos(
    run: Run, videos: Path | None, features: Path
) -> tuple[list[Path], Callable[[int], AbstractContextManager[Path]], Store]:
    """The videos to search, a function that gives the file of one, and the model's outputs for them.

    The outputs are computed if they are not there yet.
    """
    if videos is not None:
        index = index_folder(run, videos, _kept(run, features))
        for path, cause in index.broken.items():
            say(f"left out, {path}: {cause}")
        return index.videos, lambda number: nullcontext(index.videos[number]), index.store
    if is_pretrained(run.checkpoint):
        raise ValueError(f"{run.checkpoint} holds a model and names no videos, expected --videos with their folder")
    data = data_of(run)
    clips = run.test_items(data)
    world = World(0, 1, run.device)
    store = encode_videos(
        run.model, clips, _kept(run, features), world, workers=data.workers, contents=data.check_contents
    )
    return [clips.root / video for video in clips.videos], clips.opened, store
