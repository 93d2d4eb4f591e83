"""python -m benchmarks.gpu_check [PART ...] [--out FOLDER]: builds, tests and times the kernels on this machine's GPU.

The parts run in this order, and all of them run if none is named. Each should take less than nine minutes on an H200:

    build      compiles the extensions in place, and checks that the backends can run on this GPU
    tests      runs tests/kernels on the GPU's backends, in several processes
    sanitizer  runs compute-sanitizer's four tools on every kernel at small shapes
    speed      compares the kernels with alternatives, with the targets, and with the limit of the GPU
    edges      checks and times attention over the edges of graphs of several sizes
    backends   compares CUDA with Triton, and writes the table of stgt_kernels/measured.py
    ncu        prints Nsight Compute's summary of every kernel

Results go to benchmarks/results/<GPU>, or to FOLDER. The results of single tests and times are written as they come
(*.jsonl). A table of all checks is printed last. The exit code is 1 if a check is not met ("NO" in the table). In a
copy without git, the variable STGT_COMMIT gives the commit.
"""

import argparse
import importlib
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks.gpu_check.report import Check, folder, save, table

PARTS = ("build", "tests", "sanitizer", "speed", "edges", "backends", "ncu")
Part = Callable[[Path], tuple[list[Check], dict]]


def part(name: str) -> Part:
    """The function ``run(out)`` of a part. It returns the part's checks, and further entries for its JSON file.

    The part is imported only when it runs, since an earlier part may build the extension that it needs.
    """
    return importlib.import_module(f"benchmarks.gpu_check.{name}").run


def run(names: list[str], out: Path, device: torch.device, find: Callable[[str], Part] = part) -> bool:
    """Runs the parts, and continues after one that fails. Returns whether all checks are met."""
    found: dict[str, list[Check]] = {}
    for name in names:
        print(f"== {name}", flush=True)
        begin = time.monotonic()
        try:
            checks, more = find(name)(out)
        except Exception as error:  # the other parts still run
            traceback.print_exc()
            checks, more = [Check("runs to its end", f"{type(error).__name__}: {error}".splitlines()[0], "", False)], {}
        seconds = time.monotonic() - begin
        found[name] = [*checks, Check("time", f"{seconds:.0f} s", "< 540 s", seconds < 540)]
        save(out / f"{name}.json", found[name], seconds, device, **more)
        print(table({name: found[name]}), flush=True)
    print(f"\nkept in {out}\n\n{table(found)}")
    return all(check.met is not False for checks in found.values() for check in checks)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu_check", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("parts", nargs="*", metavar="PART", help="one of " + ", ".join((*PARTS, "all")))
    parser.add_argument("--out", type=Path, help="folder for the results")
    arguments = parser.parse_args()
    unknown = set(arguments.parts) - {*PARTS, "all"}
    if unknown:
        parser.error(f"there is no part {', '.join(sorted(unknown))}")
    if not torch.cuda.is_available():
        sys.exit("gpu-check: this PyTorch finds no CUDA GPU")
    everything = not arguments.parts or "all" in arguments.parts
    device = torch.device("cuda", torch.cuda.current_device())
    out = arguments.out or folder(torch.cuda.get_device_name(device))
    sys.exit(0 if run(list(PARTS) if everything else arguments.parts, out.resolve(), device) else 1)


if __name__ == "__main__":
    main()
