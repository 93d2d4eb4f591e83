"""Scripts that Python runs again in a process that reads files, and that would start such processes themselves there.

A process that reads files begins with the main script under another name than `__main__`, because a data set may be
defined there. A script whose calls do not stand under `if __name__ == "__main__":` makes them again.
"""

from __future__ import annotations

import multiprocessing
import os
import sys

READER = "stgt:"
"""The names of processes that read files begin with this"""
EXIT_CODE = 41
"""The exit code of a process that ended because its script made calls again"""


class UnguardedError(RuntimeError):
    """The main script has calls outside of `if __name__ == "__main__":`."""

    def __init__(self) -> None:
        script = getattr(sys.modules["__main__"], "__file__", None)
        super().__init__(
            f'{script}: its calls of stgt stand outside of a guard, expected them under `if __name__ == "__main__":`, '
            "because Python runs the script again in each process that reads files"
        )


def end_if_rerun() -> None:
    """End this process if it is to read files, and still runs the main script. Its parent then tells the cause."""
    process = multiprocessing.current_process()
    if getattr(process, "_inheriting", False) and process.name.startswith(READER):
        os._exit(EXIT_CODE)
