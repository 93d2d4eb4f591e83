"""Result rows, and the files that hold them."""

import csv
import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.timing import Timing

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Row:
    """The result of one provider at one size. The providers of a case take turns in one process."""

    provider: str
    dtype: str
    shape: dict[str, float]
    """The sizes that the question depends on, such as B, T, P, C, H, D, window and threshold"""
    question: str = ""
    case: str = ""
    median: float | None = None
    """Seconds; None if the provider did not run. low and high are the 20% and 80% quantiles, also in seconds."""
    low: float | None = None
    high: float | None = None
    rounds: int = 0
    edge_density: float | None = None
    """Share of the band's token pairs that are edges"""
    live_tiles: float | None = None
    """Share of the band's 64 x 64 tiles that hold an edge"""
    tflops: float | None = None
    """10^12 FLOP/s, counting only the band's pairs, whatever the provider computes"""
    gbytes: float | None = None
    """10^9 bytes/s, counting each input and output once"""
    limit_share: float | None = None
    """The least time that this work can take on this machine (`limits`), divided by the median"""
    peak_memory: int | None = None
    """Bytes that the call adds to its inputs at its peak"""
    missing: str | None = None
    """The reason why there is no time, or no time that counts"""
    bound: bool = False
    """Whether the provider computes less than the problem asks, so that its time is only a lower bound"""
    details: dict[str, float] = field(default_factory=dict)
    """Values that only this question reports, by name"""
    parts: dict[str, float] = field(default_factory=dict)
    """Each part's share of the time, by the part's name"""

    @classmethod
    def timed(
        cls,
        provider: str,
        dtype: str,
        shape: dict[str, float],
        timing: Timing,
        *,
        limit: float | None = None,
        flops: float | None = None,
        nbytes: float | None = None,
        **fields: Any,
    ) -> "Row":
        """A row with its rates. flops, nbytes: the work of the problem; limit: the least seconds that it can take."""
        median = timing.median
        return cls(
            provider,
            dtype,
            shape,
            median=median,
            low=timing.low,
            high=timing.high,
            rounds=timing.rounds,
            tflops=flops and flops / median / 1e12,
            gbytes=nbytes and nbytes / median / 1e9,
            limit_share=limit and limit / median,
            **fields,
        )

    @property
    def key(self) -> tuple[str, str, str]:
        return self.question, self.case, self.provider


@dataclass(frozen=True)
class Results:
    """The rows of one run of one question, with the environment that they depend on."""

    environment: dict[str, Any]
    rows: list[Row]

    def save(self, path: Path) -> None:
        """Writes JSON with one line per row, and beside it a CSV file with the environment in each row."""
        path.parent.mkdir(parents=True, exist_ok=True)
        rows = ",\n".join(json.dumps(dataclasses.asdict(row)) for row in self.rows)
        path.write_text(f'{{"environment": {json.dumps(self.environment)},\n"rows": [\n{rows}\n]}}\n')
        flat = [_flat(dataclasses.asdict(row) | {"environment": self.environment}) for row in self.rows]
        columns = list(dict.fromkeys(name for line in flat for name in line))
        with path.with_suffix(".csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows(flat)

    @classmethod
    def parse(cls, text: str, name: str) -> "Results":
        """Parses the content of the file with this name. Raises ValueError if it is not a file of results."""
        try:
            content = json.loads(text)
            return cls(content["environment"], [Row(**row) for row in content["rows"]])
        except (KeyError, TypeError, json.JSONDecodeError) as error:
            raise ValueError(f"{name} is not a file of benchmark results: {error!r}") from error

    @classmethod
    def load(cls, path: Path) -> "Results":
        return cls.parse(path.read_text(), str(path))


def _flat(value: dict, prefix: str = "") -> dict[str, Any]:
    flat = {}
    for name, entry in value.items():
        if isinstance(entry, dict):
            flat |= _flat(entry, f"{prefix}{name}.")
        else:
            flat[prefix + name] = entry
    return flat
