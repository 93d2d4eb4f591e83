"""python -m tools.compiled.resources: lists every kernel's resources, and how many of its blocks fit at once.

It needs nvcc but no GPU, and writes benchmarks/results/compile/kernels.md.
"""

import argparse
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tools.compiled import launches, machine_code
from tools.compiled.machine_code import ROOT, Kernel

TABLE = ROOT / "benchmarks" / "results" / "compile" / "kernels.md"
SHOWN = ("A100", "H200")
COPIES = ("UTMALDG", "LDGSTS")
PRODUCTS = ("HGMMA", "HMMA", "FFMA")
HEADER = ("kernel", "GPU", "registers", "threads", "shared KB", "stages", "blocks", "warps", "products", "copies")


@dataclass(frozen=True)
class Resources:
    """What a kernel takes on a GPU."""

    kernel: Kernel
    gpu: str
    threads: int
    shared: int
    """The largest number of bytes per block of any launch"""

    @property
    def blocks(self) -> int:
        """How many blocks fit on a multiprocessor at the same time."""
        return launches.GPUS[self.gpu].blocks_at_once(self.threads, self.kernel.registers, self.shared)


def resources(gpus: tuple[str, ...] = tuple(launches.GPUS)) -> list[Resources]:
    """The resources of every kernel that launches.problems() launch on these GPUs."""
    kernels = {(k.architecture, k.mangled): k for k in machine_code.kernels(*machine_code.compile_all())}
    found = []
    for name in gpus:
        gpu, taken = launches.GPUS[name], {}
        for op, arguments in launches.problems():
            for launch in launches.run(gpu, op, *arguments)[1]:
                kernel = kernels[gpu.architecture, launch.mangled]
                shared = kernel.shared + launch.shared
                taken[launch.mangled] = kernel, launch.threads, max(shared, taken.get(launch.mangled, (0, 0, 0))[2])
        found += [Resources(kernel, name, threads, shared) for kernel, threads, shared in taken.values()]
    return sorted(found, key=lambda r: (r.gpu, r.kernel.name))


def stages() -> dict[str, int]:
    """The number of stages of each pipelined kernel, by its name and its numeric template arguments."""
    source, emulator = Path(__file__).with_name("stages.cpp"), ROOT / "tests" / "cuda" / "emulator" / "ptx_sm90.h"
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "stages"
        subprocess.run(["g++", "-std=c++20", "-x", "c++", "-include", emulator, source, "-o", program], check=True)
        lines = subprocess.run([program], capture_output=True, text=True, check=True).stdout.splitlines()
    return {name.strip(): int(count) for name, count in (line.split(":") for line in lines)}


def stages_of(kernel: Kernel, known: dict[str, int]) -> str:
    numbers = [argument for argument in kernel.arguments if argument.isdigit()]
    weights = kernel.arguments[-1:]  # "true" if weights are float32
    return str(known.get(f"{kernel.function} {', '.join(numbers + weights)}", ""))


def table(found: list[Resources], known: dict[str, int]) -> str:
    """A Markdown table of resources. float16 is left out, since its kernels take the same resources as bfloat16's."""
    lines = [HEADER]
    for r in found:
        if "f16" in r.kernel.arguments:
            continue
        count = r.kernel.instructions
        cells = (r.kernel.registers, r.threads, f"{r.shared / 1024:.1f}", stages_of(r.kernel, known))
        occupancy = (r.blocks, r.blocks * r.threads // 32)
        opcodes = (" ".join(f"{count[name]} {name}" for name in names if count[name]) for names in (PRODUCTS, COPIES))
        lines.append((r.kernel.name, r.gpu, *map(str, (*cells, *occupancy)), *opcodes))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = ["| " + " | ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) + " |" for line in lines]
    text.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(text) + "\n"


def kept() -> dict[tuple[str, str], int]:
    """The numbers of blocks by (kernel, GPU) in the table of the repository."""
    rows = [[cell.strip() for cell in line.strip("| ").split("|")] for line in TABLE.read_text().splitlines()]
    blocks = HEADER.index("blocks")
    return {(row[0], row[1]): int(row[blocks]) for row in rows if len(row) == len(HEADER) and row[blocks].isdigit()}


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    text = table(resources(SHOWN), stages())
    TABLE.parent.mkdir(parents=True, exist_ok=True)
    TABLE.write_text(
        "# Resources of the CUDA kernels\n\n`python -m tools.compiled.resources` writes this table and needs no "
        "GPU. Registers are per thread, as\nreported by the compiler. Blocks and warps are the numbers that fit on a "
        "multiprocessor at the same time.\nProducts and copies are counts of instructions in the machine code. No "
        "kernel spills registers.\n\n" + text
    )
    print(text + f"\nwritten to {TABLE}")


if __name__ == "__main__":
    main()
