"""python -m benchmarks [question ...]: compares the time and memory of the kernels with those of the alternatives."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

# OpenMP reads these when torch is loaded, so they are set first, as `stgt` sets them (stgt/openmp.py).
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "2000")

import torch

from benchmarks import limits, suite
from benchmarks.claims import claims_table
from benchmarks.environment import environment, folder_name, summary
from benchmarks.questions import QUESTIONS, module
from benchmarks.rows import Results, Row
from benchmarks.tables import caption, case_table, missing_list, spoken

PYTEST = ("--no-header", "--tb=short", "-p", "no:cacheprovider", "-p", "no:warnings")


def main(arguments: Sequence[str] | None = None) -> int:
    p = parser()
    options = p.parse_args(arguments)
    if unknown := set(options.questions) - set(QUESTIONS):
        p.error(f"unknown question {', '.join(sorted(unknown))}; there are {', '.join(QUESTIONS)}")
    device = torch.device(options.device)
    if device.type == "cpu" and options.threads:
        torch.set_num_threads(options.threads)
    torch._dynamo.config.fail_on_recompile_limit_hit = True  # otherwise eager code would be timed as compiled

    asked = options.questions or QUESTIONS
    cases = [(question, case) for question in asked for case in module(question).cases(device.type, options.quick)]
    about = environment(device) | {"limits": vars(limits.measure(device))}
    print(summary(about))
    run = suite.Run(cases, device, options.quick, show)
    harness = ["--benchmark-quiet", "--benchmark-disable-gc"] if device.type == "cpu" else []
    status = pytest.main([suite.__file__, *PYTEST, *harness], plugins=[run])

    print("\nDid not run:", missing_list(run.rows), "", claims_table(run.rows, about), sep="\n")
    if options.out:
        for question in asked:
            rows = [row for row in run.rows if row.question == question]
            path = options.out / hardware_name(about) / f"{question}.json"
            Results(about, rows).save(path)
            print(f"kept in {path}")
    return int(status)


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    names = f"the measurements: {', '.join(QUESTIONS)}; all of them if none is named"
    device = "cuda" if torch.cuda.is_available() else "cpu"
    p.add_argument("questions", nargs="*", metavar="question", help=names)
    p.add_argument("--device", choices=("cpu", "cuda"), default=device, help="the device (default here: %(default)s)")
    p.add_argument("--quick", action="store_true", help="use small sizes and compile nothing")
    p.add_argument("--threads", type=int, help="threads that torch may use on a CPU (default: all cores)")
    p.add_argument("--out", type=Path, help="folder to keep the rows in; without it, they are only printed")
    return p


def hardware_name(about: dict) -> str:
    """The name of the folder for the results of this hardware: "cpu", or that of the GPU."""
    return "cpu" if "threads" in about else folder_name(str(about["hardware"]))


def show(rows: list[Row]) -> None:
    print(f"\n{spoken(rows[0].question)}: {caption(rows)}\n{case_table(rows)}")


if __name__ == "__main__":
    sys.exit(main())
