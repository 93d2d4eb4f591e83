"""Evaluates a model on an annotated set of videos."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from stgt.checkpoint import read_state
from stgt.config import K_TEST, DataConfig
from stgt.data.samples import RetrievalDataset
from stgt.data.text import wordings
from stgt.distributed import World, start_world
from stgt.evaluation.answers import evaluate_answers
from stgt.evaluation.captions import caption_figures
from stgt.evaluation.encode import (
    caption_ids,
    encode_texts,
    encode_videos,
    match_logits,
    model_digest,
    similarities,
    tokenize,
)
from stgt.evaluation.metrics import said_of
from stgt.evaluation.options import Evaluation
from stgt.evaluation.retrieval import (
    dual_softmax_figures,
    format_candidates,
    format_figures,
    matching_scores,
    retrieval_figures,
)
from stgt.files import file_hash, write_json
from stgt.runs import Run, data_of, find_model, open_run, precision
from stgt.tasks import RETRIEVAL
from stgt.terminal import say
from stgt.weights.pretrained import is_pretrained


def evaluate(options: Evaluation) -> dict:
    """Evaluate a model, print the result, write it to a file and return it.

    Under torchrun each process does its share. All of them return the same bits as one process alone with the same
    number of threads, on CPUs; torchrun sets the number of threads to 1. Raises ValueError for an option that has no
    effect for this model.
    """
    for name, value in {"batch_size": options.batch_size, "beams": options.beams}.items():
        if value is not None and value < 1:
            raise ValueError(f"{name} is {value}, expected at least 1")
    if options.out is not None and options.out.is_dir():
        raise ValueError(f"out is {options.out}, a folder, expected a JSON file")
    world = start_world(options.device)
    try:
        place = find_model(options.model)
        run = open_run(place.folder, options.device, options.tokenizer)
        if options.threshold is not None:
            _set_threshold(run.model, options.threshold)
        data, out = data_of(run, options.annotation, options.videos), options.out or place.out / "evaluation.json"
        with precision(run):
            if run.task is RETRIEVAL:
                features = options.features or place.out / "features"
                result = _evaluate_retrieval(run, data, options, features, out, world)
            else:
                result = _evaluate_questions(run, data, options, out, world)
        result |= {
            "checkpoint": str(run.checkpoint),
            "step": None if is_pretrained(run.checkpoint) else read_state(run.checkpoint)["step"],
            "threshold": run.model.config.graph.threshold,
        }
        if world.is_main:
            write_json(out, result)
        return result
    finally:
        world.close()


def _evaluate_questions(run: Run, data: DataConfig, options: Evaluation, out: Path, world: World) -> dict:
    _refuse(
        f"{options.model} answers questions",
        options,
        "k_test",
        "candidates",
        "rerank",
        "features",
        "dual_softmax",
        "captions",
    )
    beams = 5 if options.beams is None else options.beams
    return evaluate_answers(run, data, out.with_name("answers.json"), world, beams=beams, batch_size=options.batch_size)


def _refuse(because: str, options: Evaluation, *names: str) -> None:
    for name in names:
        value = getattr(options, name)
        if value is not False and value not in (None, ()):  # 0 is not False, though equal to it
            raise ValueError(f"{name} is given, expected none, because {because}")


def _evaluate_retrieval(
    run: Run, data: DataConfig, options: Evaluation, features: Path, out: Path, world: World
) -> dict:
    if not options.captions:
        _refuse(f"{options.model} retrieves", options, "beams")
    else:
        run.require_trained("generation", "captions is given")
    k_test, candidates = options.k_test, options.candidates
    if k_test or any(candidates):
        run.require_trained("matching", f"{'k_test' if k_test else 'candidates'} is given")
    if k_test is None and "matching" in run.training.untrained:
        k_test = 0
        say("nothing is re-ranked, because the matching head was not trained (loss.vtm_weight=0)")
    rerank = options.rerank or run.model.config.qformer.rerank
    clips = run.test_items(data)
    _require_candidates(k_test, candidates, data, len(clips.videos), len(clips.captions))
    owner = torch.tensor([video for video, _ in clips.captions])
    wording = torch.tensor(wordings(caption for _, caption in clips.captions))
    split = _facts_of(data, clips, owner, wording)
    if world.is_main:
        say("{annotation}: {videos} videos, {captions} captions, {distinct_captions} of them distinct".format(**split))
        if split["shared_captions"]:
            say("{shared_captions} captions belong to several videos, and count as right for each".format(**split))
        print(f"its SHA-256 is {split['sha256']}")
    k_test = min(K_TEST if k_test is None else k_test, max(split["videos"], split["captions"]))

    model, folder = run.model, features / model_digest(run.model, run.config.precision)
    place = dict(folder=folder, world=world, batch_size=options.batch_size)
    texts = tokenize(run, [caption for _, caption in clips.captions])
    videos = encode_videos(model, clips, **place, workers=data.workers, contents=data.check_contents)
    similarity = similarities(model, videos, encode_texts(model, texts, **place), **place)
    found = retrieval_figures(
        similarity,
        owner.tolist(),
        lambda pairs: matching_scores(match_logits(model, videos, texts, pairs, **place), rerank, model.temp.item()),
        {0, k_test, *candidates},
        wording.tolist(),
    )
    kinds = {"vtc": 0} | ({"reranked": k_test} if k_test else {})
    figures = {way: {kind: found[count][way] for kind, count in kinds.items()} for way in found[0]}
    result = {"split": split, "k_test": k_test, "rerank": rerank, **figures}
    if candidates:
        result["candidates"] = {str(count): found[count] for count in sorted({*candidates})}
    if options.dual_softmax:
        result["dual_softmax"] = dual_softmax_figures(similarity, model.temp.item(), owner.tolist(), wording.tolist())
    if options.captions:
        end, beams = run.tokenizer.sep_token_id, 3 if options.beams is None else options.beams
        written = [run.tokenizer.decode(row) for row in caption_ids(model, videos, **place, end=end, beams=beams)]
        own: list[list[str]] = [[] for _ in written]
        for video, text in clips.captions:
            own[video].append(text)
        result["captions"] = caption_figures(written, own)
    if world.is_main:
        print(format_figures(figures))
        print(format_candidates(result["candidates"]) if candidates else "", end="")
        if options.captions:
            say("captions: BLEU-4 {BLEU-4:.1f}, CIDEr-D {CIDEr-D:.1f}".format(**result["captions"]))
            entries = zip(clips.videos, written, own, strict=True)
            rows = [{"video": str(video), "caption": text, "references": texts} for video, text, texts in entries]
            write_json(out.with_name("captions.json"), rows, indent=0)
        if options.dual_softmax:
            say("With dual softmax, which uses all queries of the test set at once, unlike the figures above:")
            print(format_figures({way: {"dual softmax": found} for way, found in result["dual_softmax"].items()}))
    return result


def _facts_of(data: DataConfig, clips: RetrievalDataset, owner: Tensor, wording: Tensor) -> dict:
    """Describe the test split for the result. owner, wording: int64 (M,), the video and the wording of each text."""
    shared = said_of(owner, wording, len(clips.videos)).sum(0)[wording] > 1
    return {
        "annotation": str(data.test),
        "sha256": file_hash(data.test),
        "videos": len(clips.videos),
        "captions": len(clips.captions),
        "distinct_captions": len({caption for _, caption in clips.captions}),
        "shared_captions": int(shared.sum()),
    }


def _require_candidates(
    k_test: int | None, candidates: Sequence[int], data: DataConfig, videos: int, captions: int
) -> None:
    most = max(videos, captions)
    given = [("k_test", k_test)] if k_test is not None else []
    for name, count in [*given, *(("candidates", count) for count in candidates)]:
        if not 0 <= count <= most:
            verb, texts = "is" if name == "k_test" else "holds", f"{videos} videos and {captions} captions"
            raise ValueError(f"{name} {verb} {count}, expected 0 to {most}, because {data.test} has {texts}")


def _set_threshold(model: nn.Module, threshold: float) -> None:
    graph = model.config.graph
    if graph.kind != "graph":
        raise ValueError(f"threshold is {threshold}, expected none, because the model joins frames by {graph.kind!r}")
    model.config = replace(model.config, graph=replace(graph, threshold=threshold))
    for block in model.graph.blocks:
        block.config = model.config.graph
