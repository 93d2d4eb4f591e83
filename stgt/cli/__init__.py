"""The commands of `stgt`; `stgt/__main__.py` starts them. Each command is one file, and its signature is its help.

Commands import what they need when they run, so that `stgt --help` answers at once.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import traceback

import tyro

from stgt import extras, terminal
from stgt.cli import (
    ablate,
    ask,
    bench,
    caption,
    convert,
    data,
    efficiency,
    evaluate,
    finsta,
    index,
    info,
    quickstart,
    search,
    serve,
    train,
    visualize,
)  # fmt: skip
from stgt.cli.help_text import join_lines
from stgt.cli.paths import PARSERS
from stgt.memory import keep_freed_memory
from stgt.openmp import wait_briefly
from stgt.signals import interruption_of

join_lines()
app = tyro.extras.SubcommandApp()
for command in (
    train.train, evaluate.evaluate, index.index, search.search, serve.serve, caption.caption, ask.ask,
    visualize.visualize, convert.convert, quickstart.quickstart, ablate.ablate, efficiency.efficiency, bench.bench,
    info.info,
):  # fmt: skip
    app.command(command)
data_app = tyro.extras.SubcommandApp()
for command in (data.shapes, data.convert, data.merge, data.manifest, data.pack, data.check, data.features):
    data_app.command(command)
app.command(data_app, name="data", help="Simulated clips, annotations, shards, broken videos, feature caches.")
finsta_app = tyro.extras.SubcommandApp()
for command in (finsta.graphs, finsta.show, finsta.evaluate, finsta.ablate, finsta.train):
    finsta_app.command(command)
app.command(finsta_app, name="finsta", help="Finsta, a reconstruction: scene graphs, and models that learn from them.")
DESCRIPTION = (
    "Search videos by sentences, answer questions about them, and train and measure STGT, a video-language model."
)
REPORT = (
    "stgt: this is a fault of stgt itself. Please report it, with the command, all of the lines above and the output "
    "of `stgt info`."
)


def main() -> None:
    wait_briefly()
    keep_freed_memory()
    terminal.prepare()
    for package in ("stgt", "stgt_kernels"):
        logging.getLogger(package).setLevel(logging.INFO)
    with terminal.reader_may_leave():
        _run()


def _run() -> None:
    try:
        app.cli(prog="stgt", description=DESCRIPTION, args=train.take_recipe(sys.argv[1:]), registry=PARSERS)
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
