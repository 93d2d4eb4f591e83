"""python -m benchmarks.gpu_check [PART ...] [--out FOLDER] [--seconds N]: builds, tests and times the kernels on a GPU.

The parts run in this order, and all of them run if none is named. Each should take less than nine minutes on an H200:

    build      compiles the extensions in place, and checks that the backends can run on this GPU
    smoke      compares every kernel with the definition once, each in a process of its own, in about a minute
    tests      runs tests/kernels on the GPU's backends, in several processes
    sanitizer  runs compute-sanitizer's four tools on every kernel at small shapes
    speed      compares the kernels with alternatives, with the targets, and with the limit of the GPU
    edges      checks and times attention over the edges of graphs of several sizes
    backends   compares CUDA with Triton, and writes the table of stgt_kernels/measured.py
    ncu        prints Nsight Compute's summary of every kernel

Results go to benchmarks/results/<GPU>, or to FOLDER, in at most six files: checks.json has the checks of all parts,
records.jsonl gets the results of single tests and times as they come, and log.txt has the ends of all logs. --seconds
ends the whole command in time: a part gets what is left, and one that has less than 20 s left does not run. A table of
all checks is printed last. The exit code is 1 if a check is not met ("NO" in the table). In a copy without git, the
variable STGT_COMMIT gives the commit.
"""

import argparse
import importlib
import math
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks.gpu_check.report import Check, folder, save, table

PARTS = ("build", "smoke", "tests", "sanitizer", "speed", "edges", "backends", "ncu")
Part = Callable[[Path, float], tuple[list[Check], dict]]
SHORTEST = 20
"""Seconds that must be left for a part to begin"""


def part(name: str) -> Part:
    """The function ``run(out, deadline)`` of a part, which ends when time.monotonic() reaches the deadline.

    It returns the part's checks, and further entries for its place in checks.json. The part is imported only when it
    runs, since an earlier part may build the extension that it needs.
    """
    return importlib.import_module(f"benchmarks.gpu_check.{name}").run


def run(
    names: list[str],
    out: Path,
    device: torch.device,
    find: Callable[[str], Part] = part,
    seconds: float = math.inf,
) -> bool:
    """Runs the parts, and continues after one that fails. Returns whether all checks are met."""
    out.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + seconds
    found: dict[str, list[Check]] = {}
    for name in names:
        print(f"== {name}", flush=True)
        begin = time.monotonic()
        if deadline - begin < SHORTEST:
            found[name] = [Check("runs", f"{deadline - begin:.0f} s were left", f">= {SHORTEST} s", False)]
            continue
        try:
            checks, more = find(name)(out, deadline)
        except Exception as error:  # the other parts still run
            traceback.print_exc()
            checks, more = [Check("runs to its end", f"{type(error).__name__}: {error}".splitlines()[0], "", False)], {}
        took = time.monotonic() - begin
        found[name] = [*checks, Check("time", f"{took:.0f} s", "< 540 s", took < 540)]
        save(out, name, found[name], took, device, **more)
        print(table({name: found[name]}), flush=True)
    print(f"\nkept in {out}\n\n{table(found)}")
    return all(check.met is not False for checks in found.values() for check in checks)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu_check", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("parts", nargs="*", metavar="PART", help="one of " + ", ".join((*PARTS, "all")))
    parser.add_argument("--out", type=Path, help="folder for the results")
    parser.add_argument("--seconds", type=float, default=math.inf, help="time limit of the whole command")
    arguments = parser.parse_args()
    unknown = set(arguments.parts) - {*PARTS, "all"}
    if unknown:
        parser.error(f"there is no part {', '.join(sorted(unknown))}")
    if not torch.cuda.is_available():
        sys.exit("gpu-check: this PyTorch finds no CUDA GPU")
    everything = not arguments.parts or "all" in arguments.parts
    device = torch.device("cuda", torch.cuda.current_device())
    out = arguments.out or folder(torch.cuda.get_device_name(device))
    names = list(PARTS) if everything else arguments.parts
    sys.exit(0 if run(names, out.resolve(), device, seconds=arguments.seconds) else 1)


if __name__ == "__main__":
    main()
