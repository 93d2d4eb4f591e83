"""Trains and evaluates on clips of your own: a folder of videos, and a text file that says what each of them shows.

Run it with `python examples/your_own_data_set.py VIDEOS SENTENCES.tsv RUN`. Each line of the text file is the name of a
clip in the folder, a tab, and a sentence. A clip may have several lines.
"""

from dataclasses import replace
from pathlib import Path

import tyro

from stgt.config import TrainConfig
from stgt.data.annotations import Clip, save_captions
from stgt.data.lines import read_lines
from stgt.evaluation.options import Evaluation
from stgt.evaluation.run import evaluate
from stgt.recipes import quickstart
from stgt.training.run import train


def read_sentences(path: Path) -> list[Clip]:
    """The clips of a text file and their captions, in the order of the file."""
    captions: dict[str, list[str]] = {}
    for line in read_lines(path):
        if line.strip():
            name, sentence = line.rstrip("\r\n").split("\t")
            captions.setdefault(name, []).append(sentence)
    return [Clip(name, tuple(sentences)) for name, sentences in captions.items()]


def my_recipe(videos: Path, folder: Path, out: Path, epochs: int) -> TrainConfig:
    """A recipe is a function that returns a whole configuration. This one changes some fields of the quickstart's."""
    base = quickstart()
    return replace(
        base,
        model=replace(base.model, graph=replace(base.model.graph, threshold=0.3)),
        data=replace(base.data, train=folder / "train.json", test=folder / "test.json", videos=videos),
        out=out,
        epochs=epochs,
        batch_size=4,
    )


def main(
    videos: tyro.conf.Positional[Path],
    sentences: tyro.conf.Positional[Path],
    out: tyro.conf.Positional[Path],
    /,
    epochs: int = 2,
) -> dict:
    """Write annotations for a folder of clips, train on most of them, and measure retrieval among the others."""
    clips = read_sentences(sentences)
    # Every fourth clip is for the test. A clip must not be in both parts.
    train_clips, test_clips = [clip for i, clip in enumerate(clips) if i % 4], clips[::4]
    annotations = out.with_name(f"{out.name}-data")
    annotations.mkdir(parents=True, exist_ok=True)
    save_captions(train_clips, annotations / "train.json")
    save_captions(test_clips, annotations / "test.json")

    config = my_recipe(videos, annotations, out, epochs)
    train(config)  # the same call goes on after an interruption
    # Evaluation prints recall in both directions, and writes evaluation.json into the run's folder.
    return evaluate(Evaluation(config.out))


if __name__ == "__main__":
    tyro.cli(main)
