"""Simulated clips, and a tiny run that was trained on them."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.commands import TINY

from stgt import cli
from stgt.data.shapes import render_shapes


@pytest.fixture(scope="session")
def clips(tmp_path_factory) -> Path:
    return render_shapes(tmp_path_factory.mktemp("data") / "shapes", train=8, test=11, size=32, frames=6)


@pytest.fixture(scope="session")
def run(clips, tmp_path_factory) -> Path:
    """Read only: commands on it are given another folder to write into."""
    out = tmp_path_factory.mktemp("runs") / "tiny"
    data = ["--data.train", clips / "train.json", "--data.test", clips / "test.json", "--data.videos", clips / "videos"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            sys, "argv", ["stgt", "train", "quickstart", *TINY, "--epochs", "1", *map(str, data), "--out", str(out)]
        )
        cli.main()
    return out


@pytest.fixture
def stgt(monkeypatch, capsys) -> Callable[..., tuple[int, str]]:
    """stgt(word, …) runs the command line in this process; returns its exit status and all that it printed."""

    def command(*words: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["stgt", *map(str, words)])
        status = 0
        try:
            cli.main()
        except SystemExit as stop:
            status = stop.code
        printed = capsys.readouterr()
        return status, printed.out + printed.err

    return command
