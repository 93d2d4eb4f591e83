"""python -m benchmarks [--rounds N] [--save]: the CPU table. Takes two to three minutes on two cores."""

import argparse

import torch

from benchmarks import cpu_kernels
from benchmarks.table import environment, markdown, save


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--rounds", type=int, default=15, help="rounds of interleaved timing (default 15)")
    parser.add_argument("--threads", type=int, default=2, help="threads torch may use (default 2)")
    parser.add_argument("--save", action="store_true", help="keep the rows in benchmarks/results/cpu/kernels.json")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print(", ".join(f"{key} {value}" for key, value in environment().items()))
    print("One sample, T=8, P=256, C=1408, H=16, D=88, window 1, threshold 0.5, tokens of real video\n")
    rows = [row for question in cpu_kernels.QUESTIONS for row in question(arguments.rounds)]
    print(markdown(rows))
    if arguments.save:
        print(f"\nkept in {save(rows, 'cpu/kernels')}")


if __name__ == "__main__":
    main()
