"""Result rows, the table they print as, and where they are kept."""

import dataclasses
import json
import platform
import subprocess
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import torch

from benchmarks.timing import Timing

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Row:
    """One comparison. ``value``: how many times faster (or larger, or which share), to be held against the bound."""

    question: str
    dtype: str
    subject: str
    time: Timing
    against: str
    other: Timing | None
    value: float
    at_least: float | None = None
    at_most: float | None = None

    @classmethod
    def ratio(
        cls, question: str, dtype: str, times: dict[str, Timing], subject: str, against: str, at_least: float
    ) -> "Row":
        value = times[against].median / times[subject].median
        return cls(question, dtype, subject, times[subject], against, times[against], value, at_least)

    @property
    def met(self) -> bool:
        return self.value >= self.at_least if self.at_least is not None else self.value <= self.at_most

    def cells(self) -> tuple[str, ...]:
        bound = f">= {self.at_least:g}" if self.at_least is not None else f"<= {self.at_most:g}"
        other = "" if self.other is None else f"{milliseconds(self.other)}"
        return (
            self.question,
            self.dtype,
            f"{self.subject} {milliseconds(self.time)}",
            f"{self.against} {other}".strip(),
            f"{self.value:.2f}",
            bound,
            "yes" if self.met else "NO",
        )


def milliseconds(t: Timing) -> str:
    return f"{t.median * 1e3:.1f} ms ({t.low * 1e3:.1f}-{t.high * 1e3:.1f})"


HEADER = ("question", "dtype", "ours, median (20-80%)", "against", "value", "bound", "met")


def markdown(rows: list[Row]) -> str:
    cells = [HEADER, *(row.cells() for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(HEADER))]
    padded = [[cell.ljust(width) for cell, width in zip(line, widths, strict=True)] for line in cells]
    lines = ["| " + " | ".join(line) + " |" for line in padded]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


def environment() -> dict[str, object]:
    """What a figure depends on: hardware, versions, commit, date."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    model = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=RESULTS.parent)
    return {
        "cpu": model[0] if model else platform.processor(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "commit": commit.stdout.strip() or "unknown",
        "date": date.today().isoformat(),
    }


def save(rows: list[Row], name: str) -> Path:
    """Writes rows and environment to results/<name>.json."""
    path = RESULTS / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {"environment": environment(), "rows": [{**dataclasses.asdict(row), "met": row.met} for row in rows]}
    path.write_text(json.dumps(content, indent=1) + "\n")
    return path
