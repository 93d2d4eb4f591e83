"""What `stgt evaluate` does: the figures of a model on an annotated set of videos."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from stgt.checkpoint import read_state
from stgt.config import DataConfig
from stgt.data.text import wordings
from stgt.data.video import read_frames
from stgt.distributed import World, start_world
from stgt.evaluation.answers import evaluate_answers
from stgt.evaluation.encode import Texts, encode_texts, encode_videos, match_logits, model_digest, similarities
from stgt.evaluation.metrics import said_of
from stgt.evaluation.retrieval import Match, format_figures, matching_scores, retrieval_figures
from stgt.figures.attempt import try_to_draw
from stgt.figures.candidates import draw_candidates, format_candidates
from stgt.files import file_hash, write_json
from stgt.runs import Run, data_of, open_run, precision
from stgt.tasks import RETRIEVAL
from stgt.terminal import say
from stgt.weights.pretrained import is_pretrained

K_TEST = 32
"""How many candidates are re-ranked where nobody says otherwise, as in the paper"""


def evaluate(
    folder: Path,
    annotation: Path | None = None,
    videos: Path | None = None,
    k_test: int | None = None,
    candidates: Sequence[int] = (),
    rerank: Match = "softmax",
    threshold: float | None = None,
    beams: int = 5,
    batch_size: int = 32,
    tokenizer: str | None = None,
    features: Path | None = None,
    out: Path | None = None,
    device: str = "auto",
) -> dict:
    """Print and write the figures of a run's last checkpoint, or of a folder's model; see `stgt evaluate --help`.

    Under torchrun each process does its share, and all return what one process alone would, bit for bit (on CPUs, with
    as many threads, which torchrun sets to 1).
    """
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}, expected at least 1")
    world = start_world(device)
    try:
        run = open_run(folder, device, tokenizer)
        if threshold is not None:
            _set_threshold(run.model, threshold)
        data, out = data_of(run, annotation, videos), out or folder / "evaluation.json"
        with precision(run):
            if run.task is RETRIEVAL:
                kept = (features or folder / "features") / model_digest(run.model, run.config.precision)
                result = _evaluate_retrieval(run, data, k_test, candidates, rerank, batch_size, kept, world)
            elif world.size > 1:
                raise ValueError(f"{folder} is a question answering run, expected 1 process for it, not {world.size}")
            else:
                result = evaluate_answers(run, data, out.with_name("answers.json"), beams=beams, batch_size=batch_size)
        result |= {
            "checkpoint": str(run.checkpoint),
            "step": None if is_pretrained(run.checkpoint) else read_state(run.checkpoint)["step"],
            "threshold": run.model.config.graph.threshold,
        }
        if world.is_main:
            write_json(out, result)
            if "candidates" in result:
                try_to_draw(partial(draw_candidates, result["candidates"]), out.with_name("candidates.png"))
        return result
    finally:
        world.close()


def _evaluate_retrieval(
    run: Run,
    data: DataConfig,
    k_test: int | None,
    candidates: Sequence[int],
    rerank: Match,
    batch_size: int,
    folder: Path,
    world: World,
) -> dict:
    clips = run.test_items(data)
    _require_candidates(k_test, candidates, data, len(clips.videos))
    owner = torch.tensor([video for video, _ in clips.captions])
    wording = torch.tensor(wordings(caption for _, caption in clips.captions))
    shared = said_of(owner, wording, len(clips.videos)).sum(0)[wording] > 1
    split = {
        "annotation": str(data.test),
        "sha256": file_hash(data.test),
        "videos": len(clips.videos),
        "captions": len(clips.captions),
        "distinct_captions": len({caption for _, caption in clips.captions}),
        "shared_captions": int(shared.sum()),
    }
    if world.is_main:
        say("{annotation}: {videos} videos, {captions} captions, {distinct_captions} of them distinct".format(**split))
        if split["shared_captions"]:
            say("{shared_captions} captions are another video's word for word, and right for either".format(**split))
        print(f"sha256 {split['sha256']}")
    k_test = min(K_TEST if k_test is None else k_test, max(split["videos"], split["captions"]))

    model, place = run.model, dict(folder=folder, world=world, batch_size=batch_size)
    texts = tokenize(run, [caption for _, caption in clips.captions])
    videos = encode_videos(model, clips, **place, workers=data.workers, contents=data.check_contents)
    similarity = similarities(model, videos, encode_texts(model, texts, **place), **place)
    found = retrieval_figures(
        similarity,
        owner.tolist(),
        lambda pairs: matching_scores(match_logits(model, videos, texts, pairs, **place), rerank),
        {0, k_test, *candidates},
        wording.tolist(),
    )
    kinds = {"vtc": 0} | ({"reranked": k_test} if k_test else {})
    figures = {way: {kind: found[count][way] for kind, count in kinds.items()} for way in found[0]}
    result = {"split": split, "k_test": k_test, "rerank": rerank, **figures}
    if candidates:
        result["candidates"] = {str(count): found[count] for count in sorted({*candidates})}
    if world.is_main:
        print(format_figures(figures))
        print(format_candidates(result["candidates"]) if candidates else "", end="")
    return result


def _require_candidates(k_test: int | None, candidates: Sequence[int], data: DataConfig, videos: int) -> None:
    given = [("k_test", k_test)] if k_test is not None else []
    for name, count in [*given, *(("candidates", count) for count in candidates)]:
        if not 0 <= count <= videos:
            verb = "is" if name == "k_test" else "holds"
            raise ValueError(f"{name} {verb} {count}, expected 0 to {videos}: {data.test} has {videos} videos")


def _set_threshold(model: nn.Module, threshold: float) -> None:
    graph = model.config.graph
    if graph.kind != "graph":
        raise ValueError(f"threshold is {threshold}, expected none: the model joins frames by {graph.kind!r}")
    model.config = replace(model.config, graph=replace(graph, threshold=threshold))
    for block in model.graph.blocks:
        block.config = model.config.graph


def tokenize(run: Run, captions: list[str]) -> Texts:
    """Captions as the run's model reads them."""
    return Texts(*run.tokenizer.encode(captions, run.config.model.qformer.max_text_length))


def frames_of(video: Path, run: Run) -> Tensor:
    """The frames of a clip as the model sees them, uint8 (T, S, S, 3)."""
    size = run.config.model.vision.image_size
    frames = read_frames(video, run.config.data.frames, **run.config.data.decoding).permute(0, 3, 1, 2)
    resized = torch.nn.functional.interpolate(frames.float(), (size, size), mode="bilinear", antialias=True)
    return resized.round().clamp(0, 255).byte().permute(0, 2, 3, 1)
