"""python -m benchmarks.compare A B: compares two sets of results, and prints ratios and noise.

A and B are result files, folders of them, or commits. The exit code is 1 if B is slower than A, or takes more memory,
by more than the noise of the two measurements.
"""

import argparse
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.environment import ROOT
from benchmarks.questions import QUESTIONS
from benchmarks.rows import Results, Row
from benchmarks.tables import duration, nbytes
from stgt.markdown import table

LEAST_NOISE = 0.05
"""Two runs of the same code on a quiet machine may differ by this share, even if the rounds of each scatter less."""
HEADER = ("question", "case", "provider", "A", "B", "B/A", "noise", "memory A", "memory B", "")


def main(arguments: Sequence[str] | None = None) -> int:
    p = argparse.ArgumentParser(prog="python -m benchmarks.compare", description=__doc__)
    p.add_argument("a", metavar="A", help="before: a result file, a folder of them, or a commit")
    p.add_argument("b", metavar="B", help="after")
    options = p.parse_args(arguments)
    try:
        a, b = read(options.a), read(options.b)
    except ValueError as error:
        p.error(str(error))
    if a.hardware != b.hardware:
        machines = f"{', '.join(a.hardware)} and {', '.join(b.hardware)}"
        print(f"The hardware differs, so the ratios prove nothing: {machines}\n")
    pairs = [Pair(a.rows[key], b.rows[key]) for key in a.rows if key in b.rows]
    pairs = [pair for pair in pairs if pair.a.median and pair.b.median]
    if not pairs:
        p.error("A and B have no row in common that both measured")
    print(table(HEADER, (pair.cells() for pair in pairs)))
    regressions = [pair for pair in pairs if pair.slower or pair.larger]
    print(f"\n{len(pairs)} rows, {len(regressions)} regressions beyond the noise")
    return 1 if regressions else 0


@dataclass(frozen=True)
class Side:
    rows: dict[tuple[str, ...], Row]
    hardware: list[str]


@dataclass(frozen=True)
class Pair:
    a: Row
    b: Row

    @property
    def ratio(self) -> float:
        return self.b.median / self.a.median

    @property
    def noise(self) -> float:
        """The sum over both rows of half the distance between the 20% and 80% quantiles, relative to the median."""
        scatter = sum((row.high - row.low) / row.median / 2 for row in (self.a, self.b))
        return max(scatter, LEAST_NOISE)

    @property
    def slower(self) -> bool:
        return self.ratio > 1 + self.noise

    @property
    def larger(self) -> bool:
        """Whether B takes more memory. Memory scatters only by what the allocator keeps: a twentieth, and a few MiB."""
        if self.a.peak_memory is None or self.b.peak_memory is None:
            return False
        return self.b.peak_memory > self.a.peak_memory * 1.05 + 8 * 2**20

    def cells(self) -> list[str]:
        verdict = " and ".join(word for word, holds in (("SLOWER", self.slower), ("LARGER", self.larger)) if holds)
        faster = self.ratio < 1 - self.noise
        return [
            *self.a.key,
            duration(self.a.median),
            duration(self.b.median),
            f"{self.ratio:.2f}",
            f"{self.noise:.0%}",
            nbytes(self.a.peak_memory),
            nbytes(self.b.peak_memory),
            verdict or ("faster" if faster else ""),
        ]


def read(what: str) -> Side:
    """Reads a result file, or all result files of a folder or a commit. Raises ValueError if there are none."""
    path = Path(what)
    if path.is_file():
        results = [Results.load(path)]
    elif path.is_dir():
        results = [Results.load(file) for file in sorted(path.rglob("*.json")) if is_result(file.name)]
    else:
        results = [Results.parse(text, f"{what}:{name}") for name, text in committed(what).items()]
    if not results:
        raise ValueError(f"{what} holds no results")
    hardware = sorted({str(result.environment["hardware"]) for result in results})
    rows = {(str(result.environment["hardware"]), *row.key): row for result in results for row in result.rows}
    # If a side has results of one machine only, its rows are keyed without the machine, so that A and B can be compared
    # across machines. If it has several machines, the rows of each machine are compared separately.
    return Side(rows if len(hardware) > 1 else {key[1:]: row for key, row in rows.items()}, hardware)


def committed(commit: str) -> dict[str, str]:
    """The names and contents of the result files of a commit of this repository."""
    names = git("ls-tree", "-r", "--name-only", commit, "--", "benchmarks/results").splitlines()
    return {name: git("show", f"{commit}:{name}") for name in names if is_result(Path(name).name)}


def is_result(file: str) -> bool:
    """Whether a file with this name holds the results of a question."""
    return file.removesuffix(".json") in QUESTIONS


def git(*arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True)
    if done.returncode:
        raise ValueError(f"git {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout


if __name__ == "__main__":
    sys.exit(main())
