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
    """Time the kernels and the model against their alternatives, on this machine.

    Args:
        questions: Names of the measurements; all if none is given. `python -m benchmarks --help` lists them.
        device: The device; "auto" is a GPU where there is one.
        quick: Use small sizes and compile nothing. This takes less than two minutes on two cores.
    """
    root = Path(__file__).parents[2]
    if not (root / "benchmarks").is_dir():
        raise ValueError(
            "stgt bench runs only in a clone of the repository, but this is an installed copy; in a clone, run: "
            "pip install --no-build-isolation --editable '.[train,samples]'"
        )
    options = [] if device == "auto" else ["--device", device]
    command = [sys.executable, "-m", "benchmarks", *questions, *options, *(["--quick"] if quick else [])]
    sys.exit(subprocess.run(command, cwd=root).returncode)
