"""The commands of `stgt`; `stgt/__main__.py` starts them.

Commands import what they need when they run, so that `stgt --help` answers at once.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import traceback
from pathlib import Path
from typing import Annotated, Literal

import tyro

from stgt import extras, terminal
from stgt.config import ModelConfig, TrainConfig
from stgt.data import commands
from stgt.recipes import RECIPES
from stgt.signals import interruption_of

app = tyro.extras.SubcommandApp()
data = tyro.extras.SubcommandApp()
for command in (commands.shapes, commands.convert, commands.merge, commands.check):
    data.command(command)

Recipe = tyro.extras.subcommand_type_from_defaults(
    {name: recipe() for name, recipe in RECIPES.items()},
    {name: (recipe.__doc__ or "").strip() for name, recipe in RECIPES.items()},
    prefix_names=False,
)
Recipe = Annotated[Recipe, tyro.conf.arg(name="")]
Quickstart = Annotated[TrainConfig, tyro.conf.arg(name="")]
QUICKSTART = RECIPES["quickstart"]()
RELEASED = RECIPES["finetune_msrvtt"]().model
REPORT = (
    "stgt: this is a fault of stgt itself. Please report it, with the command, with all of the lines above and with "
    "what `stgt info` prints."
)
Run = Annotated[Path, tyro.conf.arg(help="A run's folder.")]
Model = Annotated[Path, tyro.conf.arg(help="A run's folder, or one that `stgt convert` or save_pretrained wrote.")]


@app.command
def train(recipe: Recipe) -> None:
    """Train a recipe; the same command goes on after an interruption."""
    from stgt.training.run import train

    train(recipe)


@app.command
def evaluate(
    run: Model,
    annotation: Path | None = None,
    videos: Path | None = None,
    k_test: int | None = None,
    candidates: tuple[int, ...] = (),
    rerank: Literal["softmax", "logit"] = "softmax",
    threshold: float | None = None,
    beams: int = 5,
    batch_size: int = 32,
    tokenizer: str | None = None,
    features: Path | None = None,
    out: Path | None = None,
    device: str = "auto",
) -> None:
    """Measure a model: retrieval in both directions, or the answers of a question answering run.

    Retrieval goes on where it was killed, and is shared by as many processes as torchrun starts:
    `torchrun --nproc-per-node 8 -m -- stgt evaluate …`, where the -- keeps --run from torchrun's own options.

    Args:
        annotation: Test annotation; the run's own if not given.
        videos: Folder of its videos; the run's own if not given.
        k_test: How many of the most similar are re-ranked by the matching head: 0 for none, 32 (or all of fewer) if not
            given.
        candidates: Also measure recall with so many re-ranked, e.g. 1 8 16 32 64 128, and draw candidates.png beside
            the result; 0 is for none.
        rerank: What is added to the similarity: the matching probability, or the raw logit as LAVIS has it.
        threshold: Graph threshold to test with; the model's own if not given.
        beams: How many answers are followed at a time; 1 is greedy.
        batch_size: Videos that the device holds at a time, or a quarter of its pairs to match.
        tokenizer: Of a folder that is no run, if there is none in it and it is not BERT's: a folder or a hub's name.
        features: Folder to keep encoded videos and texts in, for this command and search; RUN/features if not given.
        out: JSON file of the result; RUN/evaluation.json if not given. Answers are written into answers.json beside it.
    """
    from stgt.evaluation.run import evaluate

    evaluate(
        run, annotation, videos, k_test, candidates, rerank, threshold, beams, batch_size, tokenizer, features, out,
        device,
    )  # fmt: skip


@app.command
def search(
    sentence: tyro.conf.Positional[str | None] = None,
    *,
    run: Model,
    videos: Path | None = None,
    video: Path | None = None,
    captions: Path | None = None,
    top: int = 5,
    figure: Path | None = None,
    tokenizer: str | None = None,
    features: Path | None = None,
    device: str = "auto",
) -> None:
    """Find the videos that fit a sentence, or, with --video, the sentences that fit a video.

    Args:
        sentence: What to look for, e.g. "a green triangle grows".
        videos: Folder of any videos to look through, and the folders in it; the run's test split if not given. What
            was encoded before is read again only if it has changed.
        video: A video to find sentences for.
        captions: Where from: a text file with one per line, or an annotation; the run's test annotation if not given.
        top: How many to show.
        figure: Picture of the videos found; RUN/search.png if not given.
        tokenizer: Of a folder that is no run, if there is none in it and it is not BERT's: a folder or a hub's name.
        features: Folder to keep encoded videos and texts in; RUN/features if not given.
    """
    from stgt.search.search import search_captions, search_videos

    if (sentence is None) == (video is None):
        raise ValueError(f"expected a sentence or --video FILE, got {'neither' if video is None else 'both'}")
    if videos is not None and video is not None:
        raise ValueError("--videos is given, expected it with a sentence only: --video is compared with --captions")
    if captions is not None and video is None:
        raise ValueError("--captions is given, expected it with --video only")
    if video is None:
        search_videos(run, sentence, videos, top, figure or run / "search.png", tokenizer, features, device)
    else:
        search_captions(run, video, captions, top, tokenizer, features, device)


@app.command
def caption(
    video: tyro.conf.Positional[Path],
    run: Model,
    beams: int = 3,
    top_p: float | None = None,
    count: int = 1,
    seed: int = 0,
    device: str = "auto",
) -> None:
    """Say what happens in a clip, with a retrieval run's generation head.

    Args:
        video: The video file.
        beams: How many captions are followed at a time; 1 is greedy.
        top_p: Draw each word from the fewest that together have this probability, in place of beam search.
        count: How many captions are drawn, with top_p.
        seed: Another seed, other draws.
    """
    from stgt.evaluation.words import caption

    caption(run, video, beams, top_p, count, seed, device)


@app.command
def ask(
    video: tyro.conf.Positional[Path],
    question: tyro.conf.Positional[str],
    run: Run,
    beams: int = 5,
    device: str = "auto",
) -> None:
    """Answer a question about a clip, with a question answering run.

    Args:
        video: The video file.
        question: E.g. "what colour is the square?".
        beams: How many answers are followed at a time; 1 is greedy.
    """
    from stgt.evaluation.words import ask

    ask(run, video, question, beams, device)


@app.command
def visualize(
    video: tyro.conf.Positional[Path],
    run: Model,
    frame: int | None = None,
    row: int | None = None,
    column: int | None = None,
    layer: int = 0,
    examples: int = 3,
    features: Path | None = None,
    out: Path | None = None,
    device: str = "auto",
) -> None:
    """Draw the paper's figures of a clip and one of its patches, and a page with all of them, OUT/index.html.

    Similarity, graph, attention with and without it, other thresholds, pooling positions, and what the run retrieves.

    Args:
        video: The video file.
        frame: The patch's frame, from 0; without frame, row and column it is the patch that moves most.
        row: Its row.
        column: Its column.
        layer: The layer of the graph transformer, from 0.
        examples: How many captions and clips of the run's test split are looked up; 0 for none.
        features: Folder to keep encoded videos and texts in; RUN/features if not given.
        out: A folder for all figures, RUN/figures/VIDEO if not given; a name that ends in .png is a file for the links
            alone.
    """
    from stgt.figures.command import visualize

    visualize(run, video, out, (frame, row, column), layer, examples, features, device)


@app.command
def convert(
    inputs: tyro.conf.Positional[tuple[Path, ...]],
    out: Path,
    model: ModelConfig = RELEASED,
    fresh: tuple[str, ...] = (),
    drop: tuple[str, ...] = (),
    seed: int = 0,
) -> None:
    """Turn weights of other kinds into a folder for STGT.from_pretrained and --init, or back into a released file.

    Args:
        inputs: A released .pth; BLIP-2 as LAVIS or Hugging Face have it; eva_vit_g.pth or another vision tower. What
            they hold together is one model. Or a folder of ours: a run's, or one that this command wrote.
        out: What to write: .pth or .safetensors for a file with the released names, anything else for a folder.
        model: What no tensor tells, such as heads and threshold; frames, layers, queries and words are the files'.
        fresh: Beginnings of names that the files lack and that stay as initialised, e.g. graph_cross_model.
        drop: Beginnings of names in the files to leave out.
        seed: Decides what --fresh is initialised to.
    """
    from stgt.cli_convert_tmp import convert

    convert(inputs, out, model, fresh, drop, seed)


@app.command
def quickstart(recipe: Quickstart = QUICKSTART) -> None:
    """From nothing to a trained model on simulated clips: render, train, evaluate, time, draw."""
    from stgt.quickstart import quickstart

    quickstart(recipe)


@app.command
def ablate(
    studies: tyro.conf.Positional[tuple[Literal["table2", "table3", "fig7"], ...]] = (),
    seeds: int = 3,
    epochs: int = 10,
    clips: int = 1500,
    test_clips: int = 100,
    out: Path = Path("runs/ablations"),
    device: str = "auto",
) -> None:
    """Repeat the paper's ablations on simulated clips; the same command goes on after an interruption.

    Args:
        studies: The paper's Table 2 (graph, weights), Table 3 (CSAL), Fig. 7 (h, gamma); all if none is given.
        seeds: Runs of each variant.
        epochs: Of each run.
        clips: Simulated clips to train on.
        test_clips: Simulated clips to test on.
        out: Folder of the clips, the runs, ablations.md, ablations.json and ablations.png.
    """
    from stgt.paper.ablation.run import Size, ablate

    ablate(studies, Size(seeds, epochs, clips, test_clips), out, device)


@app.command
def efficiency(
    size: Literal["quickstart", "ViT-B", "ViT-g"] | None = None,
    batch_size: int = 8,
    rounds: int = 5,
    tower: bool = True,
    device: str = "auto",
    out: Path | None = None,
) -> None:
    """The paper's Table 6: parameters, FLOPs, clips per second of STGT, dense attention and the CCT+MIT baseline.

    Args:
        size: What is timed; the paper's ViT-g on a GPU, else the quickstart's if not given. ViT-g is what is counted.
        batch_size: Clips embedded at a time.
        rounds: How often each is timed, in turns.
        tower: Time the vision tower, too; --no-tower begins with its tokens, as from a cache.
        out: JSON file to write.
    """
    from stgt.paper.table6 import efficiency

    efficiency(size, batch_size, rounds, tower, device, out)


@app.command
def bench(
    questions: tyro.conf.Positional[tuple[str, ...]] = (),
    device: Literal["auto", "cpu", "cuda"] = "auto",
    quick: bool = False,
) -> None:
    """Time the kernels and the model against what one would use instead, on this machine.

    Args:
        questions: Which; all if none is given. `python -m benchmarks --help` lists them.
        device: Where; "auto" is a GPU where there is one.
        quick: Small sizes and nothing compiled: under two minutes on two cores.
    """
    root = Path(__file__).parent.parent
    if not (root / "benchmarks").is_dir():
        raise ValueError("stgt bench runs in a clone of the repository, this is an installed package")
    options = [] if device == "auto" else ["--device", device]
    command = [sys.executable, "-m", "benchmarks", *questions, *options, *(["--quick"] if quick else [])]
    sys.exit(subprocess.run(command, cwd=root).returncode)


@data.command
def features(recipe: Recipe, out: Path, views: int = 1, batch_size: int = 16, device: str = "auto") -> None:
    commands.features(recipe, out, views, batch_size, device)


features.__doc__ = commands.features.__doc__
app.command(data, name="data", help="Simulated clips, annotations, broken videos, feature caches.")


@app.command
def info() -> None:
    """Show versions, how the kernels were built, and which backends can run here."""
    from stgt.info import print_info

    print_info()


def main() -> None:
    # Read when torch is loaded. Threads that spin while they wait starve each other as soon as the machine does
    # anything else: a step of a small model was seen to take 6 s instead of 0.5 s.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    terminal.prepare()
    for package in ("stgt", "stgt_kernels"):
        logging.getLogger(package).setLevel(logging.INFO)
    with terminal.reader_may_leave():
        _run()


def _run() -> None:
    try:
        app.cli(prog="stgt")
    except KeyboardInterrupt as stop:
        sys.exit(128 + getattr(stop, "signum", signal.SIGINT))
    except Exception as error:
        if stop := interruption_of(error):
            sys.exit(128 + stop.signum)
        if os.environ.get("STGT_TRACEBACK") or terminal.reader_left(error):
            raise
        extras.exit_if_missing(error)
        from stgt.failures import exit_status, message_of

        status = exit_status(error)
        if status is None:
            lines = "".join(traceback.format_exception(error)).rstrip("\n").split("\n")
            print("\n".join(map(terminal.printable, lines)), file=sys.stderr)
            print(REPORT, file=sys.stderr)
            sys.exit(1)
        print(f"stgt: {terminal.printable_message(message_of(error))}", file=sys.stderr)
        sys.exit(status)
