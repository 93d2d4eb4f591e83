"""Printed text does not control the terminal, works in any encoding, and ends without a message if nobody reads it."""

import logging
import os
import signal
import subprocess
import sys

import pytest

from stgt import cli, terminal

HOSTILE = "a\x1b[2Jb\x07\r\n\t\x9b31m\x7f\u202ec\u2028\x85\udcff\ud800.mp4"
SHOWN = r"a\x1b[2Jb\x07\r\n\t\x9b31m\x7f\u202ec\u2028\x85\xff\ud800.mp4"


def test_control_characters_appear_as_escapes_and_everything_else_as_itself():
    assert terminal.printable(HOSTILE) == SHOWN
    for text in ("$5 <script> 100% 'a' \"b\" C:\\new", "日本 naïve 👩\u200d👧 می\u200cخواهم", ""):
        assert terminal.printable(text) == text


def test_every_character_of_the_first_planes_is_safe():
    for code in range(0x30000):
        shown = terminal.printable(chr(code))
        assert shown == chr(code) or (shown.isascii() and shown.isprintable())
        if len(shown) == 1:
            assert len(shown.splitlines()) == 1 and shown.encode("utf-8")


def test_a_message_keeps_its_list_and_no_other_line_break():
    assert terminal.printable_message("differs:\n  a is 1\n  b\n\x1b is 2") == "differs:\n  a is 1\n  b\\n\\x1b is 2"


def test_say_prints_one_line_for_each_argument(capsys):
    terminal.say("one\ntwo", HOSTILE)
    assert capsys.readouterr().out == f"one\\ntwo\n{SHOWN}\n"


def test_log_lines_are_escaped_and_tracebacks_stay_readable():
    try:
        raise ValueError(HOSTILE)
    except ValueError:
        record = logging.LogRecord("stgt", logging.WARNING, "file.py", 1, "bad %s", (HOSTILE,), sys.exc_info())
    first, *traceback = terminal._Formatter("%(message)s").format(record).split("\n")
    assert first == f"bad {SHOWN}" and traceback[0].startswith("Traceback")
    assert "\x1b" not in "".join(traceback) and r"\x1b[2J" in "".join(traceback)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ValueError(f"{HOSTILE}: broken"), f"stgt: {SHOWN}: broken\n"),
        (
            OSError(
                "Caught VideoError in DataLoader worker process 0.\nOriginal Traceback (most recent call last):\n"
                '  File "a.py", line 1, in read\nstgt.data.errors.VideoError: a\x85b.mp4: no such file\n'
            ),
            "stgt: a\\x85b.mp4: no such file\n",
        ),
    ],
)
def test_errors_are_escaped(error, expected, monkeypatch, capsys):
    def fail(**options):
        raise error

    monkeypatch.setattr(cli.app, "cli", fail)
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 2 and capsys.readouterr().err == expected


def python(code: str, encoding: str, **options) -> subprocess.Popen:
    command = [sys.executable, "-X", "utf8=0", "-c", code]
    environment = {"PATH": "/usr/bin:/bin", "PYTHONIOENCODING": encoding, "PYTHONPATH": ":".join(sys.path)}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options)


def test_an_ascii_terminal_shows_escapes():
    code = (
        "from stgt import terminal; import logging; terminal.prepare()\n"
        "terminal.say('naïve 日 \\udcff'); print('“quoted”'); logging.warning('é')"
    )
    out, err = python(code, "ascii").communicate(timeout=500)
    assert out.split(b"\n")[:2] == [rb"na\xefve \u65e5 \xff", rb"\u201cquoted\u201d"] and err == b"\\xe9\n"


WRITING = "from stgt import terminal; import sys\nwith terminal.reader_may_leave():\n    "


def test_a_library_that_prints_its_own_log_is_not_repeated():
    program = (
        "from stgt import terminal; import logging; terminal.prepare()\n"
        "logging.getLogger('hub').addHandler(logging.StreamHandler())\n"
        "logging.getLogger('hub.files').warning('retrying')\n"
        "logging.getLogger('stgt.data').warning('a line of ours')\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=500, check=True)
    assert done.stderr == "retrying\na line of ours\n"


@pytest.mark.parametrize(
    "write", ["print('line\\n' * 3)", "terminal.say(*['line'] * 99999)", "sys.exit(print('line'))"]
)
def test_a_process_without_a_reader_ends_without_a_message(write):
    # The process waits for a line before it writes. It gets the line when its output has no reader any more.
    process = python(f"{WRITING}input(); {write}", "utf-8", stdin=subprocess.PIPE)
    process.stdout.close()
    process.stdin.write(b"\n")
    process.stdin.close()
    assert process.stderr.read() == b"" and process.wait(120) == 128 + signal.SIGPIPE


def test_a_broken_pipe_elsewhere_is_an_error():
    code = "import os; r, w = os.pipe(); os.close(r); os.write(w, b'1')"
    out, err = python(WRITING + code, "utf-8").communicate(timeout=500)
    assert out == b"" and b"BrokenPipeError" in err


def test_a_closed_pipe_ends_the_command_without_a_message():
    process = python(
        "import sys; sys.argv = ['stgt', '--help']; input(); from stgt.cli import main; main()",
        "ascii",
        stdin=subprocess.PIPE,
    )
    process.stdout.close()
    process.stdin.write(b"\n")
    process.stdin.close()
    assert process.stderr.read() == b"" and process.wait(120) == 128 + signal.SIGPIPE


@pytest.mark.parametrize("words", [["evaluate", "--help"], ["evaluate", "--nonsense"], ["data", "features", "--help"]])
def test_help_ends_in_a_terminal_of_one_column(words):
    command = [sys.executable, "-m", "stgt", *words]
    environment = os.environ | {"COLUMNS": "1", "PYTHONIOENCODING": "utf-8"}
    done = subprocess.run(command, capture_output=True, encoding="utf-8", env=environment, timeout=120)
    assert done.returncode == (0 if words[-1] == "--help" else 2)
    frames = [line for line in (done.stdout + done.stderr).splitlines() if line.startswith("╭")]
    assert frames and {len(line) for line in frames} == {terminal.NARROWEST}
