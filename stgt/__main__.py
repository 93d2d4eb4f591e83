"""The start of `stgt COMMAND` and `python -m stgt COMMAND`.

This module needs torch alone. If the packages of the command line are missing, `stgt info` still works, and any other
command says in one line what to install.
"""

import os
import signal
import sys

from stgt import extras
from stgt.signals import StopSignals


def main() -> None:
    """Run the command that the program's arguments name. A signal ends it without a message, also while it loads."""
    try:
        with StopSignals(interrupt=True):
            _run()
    except KeyboardInterrupt as stop:
        sys.exit(128 + getattr(stop, "signum", signal.SIGINT))


def _run() -> None:
    try:
        from stgt.cli import main as run_command
    except ModuleNotFoundError as error:
        if sys.argv[1:] == ["info"]:
            from stgt.info import print_info

            return print_info()
        if not os.environ.get("STGT_TRACEBACK"):
            extras.exit_if_missing(error)
        raise
    run_command()


if __name__ == "__main__":
    main()
