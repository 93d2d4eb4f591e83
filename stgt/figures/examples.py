"""Examples of retrieval from a model's test split, ranked as in evaluation: clips for captions, captions for clips."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from stgt.data.video import read_frames
from stgt.distributed import World
from stgt.evaluation.encode import encode_texts, encode_videos, match_pairs, model_digest, similarities, tokenize
from stgt.evaluation.retrieval import own_scores
from stgt.figures.retrieved import STILLS, Answer, Example
from stgt.figures.style import squares
from stgt.runs import Run, precision
from stgt.search.search import rank


@torch.inference_mode()
def find_examples(run: Run, features: Path, count: int, top: int = 5) -> tuple[list[Example], list[Example]]:
    """Text-to-video and video-to-text examples: `count` of each, evenly spread over the split whatever their results.

    Encoded clips and captions are kept in the folder `features` and read from it, as in `stgt evaluate`.
    """
    model, data = run.model, run.config.data
    clips = run.test_items(data)
    captions, owner = [text for _, text in clips.captions], [video for video, _ in clips.captions]
    world = World(0, 1, run.device)
    kept = features / model_digest(model, run.config.precision)

    def matching(video: Tensor, text: Tensor) -> Tensor:
        pairs = torch.stack(torch.broadcast_tensors(video, text), dim=1)
        return own_scores(model, match_pairs(model, videos, texts, pairs))

    def frames(video: int) -> Tensor:
        with clips.opened(video) as path:
            return squares(read_frames(path, STILLS))

    def for_text(text: int) -> Example:
        order = rank(similarity[:, text], lambda items: matching(items, torch.tensor(text)), top=len(clips.videos))
        place = 1 + [video for video, _ in order].index(owner[text])
        answers = [Answer(clips.videos[v], score, v == owner[text], frames(v)) for v, score in order[:top]]
        return Example(captions[text], answers, place, len(order))

    def for_video(video: int) -> Example:
        order = rank(similarity[video], lambda items: matching(torch.tensor(video), items), top=len(captions))
        place = 1 + [owner[text] for text, _ in order].index(video)
        answers = [Answer(captions[t], score, owner[t] == video) for t, score in order[:top]]
        return Example(clips.videos[video], answers, place, len(order), frames(video))

    with precision(run):
        texts = tokenize(run, captions)
        videos = encode_videos(model, clips, kept, world, workers=data.workers, contents=data.check_contents)
        similarity = similarities(model, videos, encode_texts(model, texts, kept, world), kept, world)
        return (
            [for_text(text) for text in spread(len(captions), count)],
            [for_video(video) for video in spread(len(clips.videos), count)],
        )


def spread(items: int, count: int) -> list[int]:
    """The numbers of `count` items at equal distances among `items`, or of all items if there are fewer."""
    return [number * items // min(count, items) for number in range(min(count, items))]
