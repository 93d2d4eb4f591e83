"""The command line prints one line for known kinds of errors, and a traceback and a request for others."""

import subprocess
import sys

import pytest
import torch

from stgt import cli
from stgt.files import atomic_file


def run(monkeypatch, capsys, error):
    def fail(**_):
        raise error

    monkeypatch.setattr(cli.app, "cli", fail)
    with pytest.raises(SystemExit) as exit:
        cli.main()
    return exit.value.code, capsys.readouterr().err


def memory_error():
    try:
        torch.empty(2**60)
    except RuntimeError as error:
        return error


@pytest.mark.parametrize(
    ("error", "status", "expected"),
    [
        (ValueError("x.json: not JSON"), 2, "stgt: x.json: not JSON\n"),
        (PermissionError(13, "Permission denied", "x"), 2, "stgt: [Errno 13] Permission denied: 'x'\n"),
        (MemoryError(), 1, "stgt: there is not enough memory: Python got none\n"),
        (
            MemoryError("x.md: could not be written"),
            1,
            "stgt: there is not enough memory: x.md: could not be written\n",
        ),
    ],
)
def test_an_error_of_a_known_kind_is_one_line(error, status, expected, monkeypatch, capsys):
    assert run(monkeypatch, capsys, error) == (status, expected)


def test_a_lack_of_memory_in_pytorch_is_one_line_with_the_bytes(monkeypatch, capsys):
    status, said = run(monkeypatch, capsys, memory_error())
    assert status == 1 and said.startswith("stgt: there is not enough memory: ")
    assert f"{2**62} bytes" in said and said.count("\n") == 1


def test_an_error_of_an_unknown_kind_shows_its_traceback_and_asks_for_a_report(monkeypatch, capsys):
    status, said = run(monkeypatch, capsys, KeyError("\x1b[2J"))
    assert status == 1 and "Traceback (most recent call last)" in said and "KeyError: " in said
    assert said.splitlines()[-1] == cli.REPORT and "`stgt info`" in cli.REPORT
    assert "\x1b" not in said


def test_a_lack_of_memory_while_writing_names_the_file(tmp_path):
    (tmp_path / "page.md").write_text("old")
    without = pytest.raises(MemoryError, match="page.md: could not be written; what was there before is unchanged")
    with without, atomic_file(tmp_path / "page.md"):
        raise MemoryError
    assert (tmp_path / "page.md").read_text() == "old"


def test_the_program_asks_for_a_report_as_well():
    code = "import sys; from stgt import cli; cli.app.cli = lambda **_: {}['key']; cli.main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.splitlines()[-1] == cli.REPORT
