"""Runs the command line in this process, and lists the arguments that train tiny models."""

import sys

import pytest

from stgt import cli


def words(text: str) -> list[str]:
    return text.split()


TINY = words("""--model.vision.width 16 --model.vision.layers 1 --model.vision.heads 2 --model.vision.image-size 32
    --model.graph.heads 2 --model.qformer.hidden 16 --model.qformer.heads 2 --model.qformer.intermediate 32
    --model.qformer.queries 2 --model.qformer.embed-dim 8 --data.tokenizer-size 200 --data.frames 4 --batch-size 4""")
# Both epochs have dropout, and the second one also has the cross-similarity loss.
TWO_EPOCHS = words("""--model.graph.dropout 0.1 --model.qformer.dropout 0.1 --epochs 2 --loss.alignment csal
    --vtc-epochs 1 --log-every 2 --save-every 3 --optim.warmup-steps 2""")
# Post-training of the tiny run: 4 steps of each stage, on the 19 clips of the fixture `clips`.
FINSTA = words("""--batch-size 4 --workers 0 --finsta.width 16 --finsta.layers 1 --finsta.heads 2 --finsta.cells 2
    --save-every 3 --log-every 2""")
LANGUAGE = words("""--model.language.hidden 16 --model.language.heads 2 --model.language.layers 1
    --data.tokenizer-size 300""")


def run_cli(monkeypatch: pytest.MonkeyPatch, *words: object) -> int:
    """Runs `stgt` with these arguments in this process, and returns its exit status."""
    monkeypatch.setattr(sys, "argv", ["stgt", *map(str, words)])
    try:
        cli.main()
    except SystemExit as stop:
        return stop.code
    return 0


def printed_text(capsys: pytest.CaptureFixture) -> str:
    """Returns what the command line printed since the last call, in one line and without the frames of boxes."""
    printed = capsys.readouterr()
    return " ".join((printed.out + printed.err).replace("│", " ").split())


def train_retrieval(clips, out, *more, recipe="quickstart"):
    """The arguments that train retrieval on a folder of simulated clips."""
    data = ["--data.train", clips / "train.json", "--data.test", clips / "test.json", "--data.videos", clips / "videos"]
    return [str(word) for word in ["train", recipe, *TINY, *TWO_EPOCHS, *data, "--out", out, *more]]


def train_questions(clips, out, *more):
    """The arguments that train question answering on a folder of simulated clips."""
    data = ["--data.train", clips / "qa_train.json", "--data.test", clips / "qa_test.json", "--data.videos"]
    data += [clips / "videos", "--data.answers", clips / "ans2label.json", "--init", "None", "--save-every", 4]
    sizes = [*TINY, *TWO_EPOCHS, *LANGUAGE, "--keep", 9]
    return [str(word) for word in ["train", "vqa_shapes", *sizes, *data, "--out", out, *more]]
