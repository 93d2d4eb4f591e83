"""A file of scene graphs, and a post-training of the tiny run with it."""

from pathlib import Path

import pytest
from helpers.commands import FINSTA, run_cli


@pytest.fixture(scope="session")
def graphs(clips, tmp_path_factory) -> Path:
    """The true scene graphs of the simulated clips."""
    out = tmp_path_factory.mktemp("graphs") / "graphs.jsonl"
    with pytest.MonkeyPatch.context() as patch:
        assert run_cli(patch, "finsta", "graphs", "shapes", clips, "--out", out) == 0
    return out


@pytest.fixture(scope="session")
def trained(run, graphs, tmp_path_factory) -> Path:
    """The folder of the tiny run after post-training: 4 steps of each stage. Tests do not write into it."""
    out = tmp_path_factory.mktemp("finsta") / "trained"
    with pytest.MonkeyPatch.context() as patch:
        assert run_cli(patch, "finsta", "train", run, "--graphs", graphs, "--out", out, *FINSTA) == 0
    return out


@pytest.fixture
def post_train(stgt, run, graphs):
    """post_train(out, …) post-trains the tiny run, and returns the exit status and the output."""

    def command(out, *more, host=run, file=graphs):
        return stgt("finsta", "train", host, "--graphs", file, "--out", out, *FINSTA, *more)

    return command
