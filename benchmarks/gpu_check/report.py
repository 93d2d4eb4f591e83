"""The checks of a part, their table, and the file that holds them."""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.environment import environment, folder_name
from benchmarks.rows import RESULTS

HEADER = ("part", "what", "found", "wanted", "met")
MOST_LOGGED = 300_000
"""Characters of one log that are kept"""


@dataclass(frozen=True)
class Check:
    what: str
    found: str
    wanted: str = ""
    met: bool | None = None
    """None if there is no target"""

    def cells(self, part: str) -> tuple[str, ...]:
        return part, self.what, self.found, self.wanted, {None: "", True: "yes", False: "NO"}[self.met]


def table(parts: dict[str, list[Check]]) -> str:
    lines = [HEADER, *(check.cells(part) for part, checks in parts.items() for check in checks)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    padded = ["| " + " | ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) + " |" for line in lines]
    padded.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(padded)


def folder(name: str) -> Path:
    """The folder for the results of a GPU with this name: benchmarks/results/h200 for "NVIDIA H200"."""
    return RESULTS / folder_name(name)


def save(out: Path, part: str, checks: list[Check], seconds: float, device: torch.device, **more: Any) -> None:
    """Writes the checks of a part into checks.json with their environment, and keeps the other parts of that file.

    The clocks are read now, at the end of the part.
    """
    path = out / "checks.json"
    kept = json.loads(path.read_text()) if path.exists() else {}
    kept[part] = {
        "environment": environment(device),
        "seconds": round(seconds, 1),
        "checks": [dataclasses.asdict(check) for check in checks],
        **more,
    }
    path.write_text(json.dumps(kept, indent=1) + "\n")


def log(out: Path, title: str, text: str) -> None:
    """Appends the end of a text to log.txt, which keeps the file small enough to be carried away from any machine."""
    left_out = len(text) - MOST_LOGGED
    begin = f"({left_out} characters are left out)\n" if left_out > 0 else ""
    with (out / "log.txt").open("a", errors="replace") as file:
        file.write(f"== {title}\n{begin}{text[-MOST_LOGGED:].rstrip()}\n")
