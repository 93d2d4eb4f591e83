"""The checks of a part, their table, and the file that holds them."""

import dataclasses
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.environment import environment
from benchmarks.rows import RESULTS

HEADER = ("part", "what", "found", "wanted", "met")


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
    return RESULTS / re.sub(r"[^a-z0-9]+", "-", name.lower().removeprefix("nvidia").strip()).strip("-")


def save(path: Path, checks: list[Check], seconds: float, device: torch.device, **more: Any) -> None:
    """Writes the checks as JSON with their environment. The clocks are read now, at the end of the part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {
        "environment": environment(device),
        "seconds": round(seconds, 1),
        "checks": [dataclasses.asdict(check) for check in checks],
        **more,
    }
    path.write_text(json.dumps(content, indent=1) + "\n")
