"""`stgt bench`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Literal

import tyro


def bench(
    questions: tyro.conf.Positional[tuple[str, ...]] = (),
    device: Literal["auto", "cpu", "cuda"] = "auto",
    quick: bool = False,
) -> None:
    """Time the kernels and the model against what one would use instead, on this machine.

    Args:
        questions: Which; all if none is given. `python -m benchmarks --help` lists them.
        device: Where; "auto" is a GPU where there is one.
        quick: Small sizes and nothing compiled: under two minutes on two cores.
    """
    root = Path(__file__).parents[2]
    if not (root / "benchmarks").is_dir():
        raise ValueError("stgt bench runs in a clone of the repository, this is an installed package")
    options = [] if device == "auto" else ["--device", device]
    command = [sys.executable, "-m", "benchmarks", *questions, *options, *(["--quick"] if quick else [])]
    sys.exit(subprocess.run(command, cwd=root).returncode)
