"""Compiles csrc/cuda, and reports the registers, spills and instructions of every kernel. It needs no GPU."""

import fcntl
import functools
import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).parents[2]
SOURCES = ROOT / "csrc" / "cuda"
BUILD = ROOT / "build" / "cuda"


@dataclass
class Kernel:
    """A kernel, compiled for one architecture."""

    name: str
    """The C++ name without namespaces and arguments, such as graph_attention_fwd_sm90<bf16, 88, 4, false, false>"""
    mangled: str
    architecture: str
    """sm_80 or sm_90a"""
    registers: int
    stack: int
    spilled: int
    """Bytes per thread; the stack is in bytes per thread as well"""
    shared: int
    """Static bytes per block; a launch may ask for dynamic shared memory in addition"""
    instructions: Counter = field(default_factory=Counter)
    """The count of each opcode in the machine code, without modifiers: HGMMA, LDGSTS, ... LDG.128 counts those LDG that
    load 16 bytes."""

    @property
    def function(self) -> str:
        return self.name.partition("<")[0]

    @property
    def arguments(self) -> list[str]:
        """The arguments of the kernel's template."""
        return self.name.partition("<")[2].rstrip(">").split(", ")


def setup_py() -> ModuleType:
    """Imports setup.py, which defines the build flags."""
    spec = importlib.util.spec_from_file_location("stgt_setup", ROOT / "setup.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@functools.cache
def command() -> list[str]:
    """The nvcc command: the options of setup.py, those that torch's build adds, and the report of registers."""
    from torch.utils import cpp_extension

    build = setup_py()
    architectures = build.cuda_architectures(build.CUDA_ARCHITECTURES)
    code = [option for architecture in architectures for option in build.code_for(architecture)]
    macros = [f'-DSTGT_CUDA_ARCHITECTURES="{" ".join(architectures)}"', *cpp_extension.COMMON_NVCC_FLAGS]
    include = [f"-I{path}" for path in cpp_extension.include_paths()]
    return ["nvcc", *macros, *include, "-Xcompiler=-fPIC", "-Xptxas=-v", *build.nvcc_flags, *code]


def compile_all(jobs: int = 2) -> tuple[list[Path], str]:
    """Compiles the sources that have changed into build/cuda. Returns all objects and nvcc's whole output.

    If several processes call it, one compiles, and the others wait for it.
    Raises RuntimeError with nvcc's output if a source does not compile.
    """
    sources = sorted(SOURCES.rglob("*.cu"))
    BUILD.mkdir(parents=True, exist_ok=True)
    with (BUILD / "lock").open("w") as lock, ThreadPoolExecutor(jobs) as pool:
        fcntl.flock(lock, fcntl.LOCK_EX)
        objects = list(pool.map(_compile, sources))
    return objects, "".join(path.with_suffix(".log").read_text() for path in objects)


def _compile(source: Path) -> Path:
    version = subprocess.run(["nvcc", "--version"], capture_output=True, text=True, check=True).stdout
    # Comments and layout change no machine code, so they do not ask for another compilation.
    content = [re.sub(r"//.*|\s+", "", path.read_text()) for path in sorted(included(source))]
    key = hashlib.sha256("\0".join([version, *command(), *content]).encode()).hexdigest()[:16]
    name = ".".join(source.relative_to(SOURCES).with_suffix("").parts)
    path = BUILD / f"{name}-{key}.o"
    if not path.exists():
        for old in path.parent.glob(f"{name}-*"):
            old.unlink(missing_ok=True)
        unfinished, begin = path.with_suffix(f".{os.getpid()}"), time.monotonic()
        done = subprocess.run(
            [*command(), "-c", str(source), "-o", str(unfinished)], capture_output=True, text=True, cwd=ROOT
        )
        if done.returncode:
            raise RuntimeError(f"nvcc does not compile {name}.cu:\n{done.stdout}{done.stderr}")
        print(f"{name}.cu: compiled in {time.monotonic() - begin:.0f} s", flush=True)
        path.with_suffix(".log").write_text(done.stdout + done.stderr)
        unfinished.rename(path)
    return path


def included(source: Path) -> set[Path]:
    """The paths of a source file and of all our files that it includes, directly or indirectly."""
    found, new = set(), {source.resolve()}
    while new:
        found |= new
        names = {(path, name) for path in new for name in re.findall(r'#include "(.+)"', path.read_text())}
        new = {(path.parent / name).resolve() for path, name in names} - found
    return found


def kernels(objects: list[Path], log: str) -> list[Kernel]:
    """Every kernel in the objects (or libraries), in the order of the compiler's report."""
    found = list(reported(log))
    names = demangled([kernel.mangled for kernel in found])
    by_name = {}
    for kernel, name in zip(found, names, strict=True):
        kernel.name = name
        by_name[kernel.architecture, kernel.mangled] = kernel
    for path in objects:
        for architecture, mangled, opcodes in disassembled(path):
            by_name[architecture, mangled].instructions = opcodes
    return found


def reported(log: str) -> Iterator[Kernel]:
    """Parses the report of ``-Xptxas -v`` on each kernel."""
    entry = re.compile(
        r"Compiling entry function '(?P<mangled>\w+)' for '(?P<architecture>\w+)'.*?"
        r"(?P<stack>\d+) bytes stack frame, (?P<stores>\d+) bytes spill stores, (?P<loads>\d+) bytes spill loads.*?"
        r"Used (?P<registers>\d+) registers(?P<rest>[^\n]*)",
        re.DOTALL,
    )
    for match in entry.finditer(log):
        shared = re.search(r"(\d+) bytes smem", match["rest"])
        yield Kernel(
            name=match["mangled"],
            mangled=match["mangled"],
            architecture=match["architecture"],
            registers=int(match["registers"]),
            stack=int(match["stack"]),
            spilled=int(match["stores"]) + int(match["loads"]),
            shared=int(shared[1]) if shared else 0,
        )


def demangled(names: list[str]) -> list[str]:
    text = subprocess.run(["c++filt"], input="\n".join(names), capture_output=True, text=True, check=True).stdout
    return [short(name) for name in text.splitlines()]


def short(name: str) -> str:
    """A demangled kernel's name without its return type, namespaces and arguments."""
    name = re.sub(r"\(anonymous namespace\)::|\b_GLOBAL__N__\w+::|\b(?:\w+::)+", "", name.removeprefix("void "))
    name = re.sub(r"\((?:bool|int|unsigned int)\)", "", name)  # removes casts in template arguments: (bool)1
    return name.partition("(")[0].replace("> >", ">>")


def disassembled(path: Path) -> Iterator[tuple[str, str, Counter]]:
    """Yields the architecture, mangled name and opcode counts of each kernel in an object or library.

    Raises RuntimeError if cuobjdump fails.
    """
    process = subprocess.Popen([cuobjdump(), "--dump-sass", str(path)], stdout=subprocess.PIPE, text=True)
    architecture, function, opcodes = "", "", Counter()
    opcode = re.compile(r"\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+ )?([A-Z][A-Z0-9]*)([.\w]*)")
    with process:
        for line in process.stdout:
            if match := opcode.match(line):
                opcodes[match[1]] += 1
                opcodes["LDG.128"] += match[1] == "LDG" and ".128" in match[2]
            elif line.startswith("arch = "):
                architecture = line.split()[-1]
            elif "Function : " in line:
                if function:
                    yield (*function, opcodes)
                function, opcodes = (architecture, line.split()[-1]), Counter()
    if function:
        yield (*function, opcodes)
    if process.returncode:
        raise RuntimeError(f"cuobjdump --dump-sass {path} failed")


@functools.cache
def cuobjdump() -> str:
    """The path of CUDA's cuobjdump, or else of the one that comes with Triton."""
    if found := shutil.which("cuobjdump"):
        return found
    import triton

    return triton.knobs.nvidia.cuobjdump.path
