"""Builds the extensions in place with the Python that runs this, and checks that the backends can run here."""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from benchmarks.environment import ROOT, version
from benchmarks.gpu_check.processes import finish, start
from benchmarks.gpu_check.report import Check, log

ASK = """
import torch
from stgt_kernels import dispatch
for backend in ("cuda", "triton"):
    print(backend, dispatch.why_not(backend, "cuda", torch.bfloat16) or "yes", sep=": ")
"""


def run(out: Path, deadline: float) -> tuple[list[Check], dict]:
    begin = time.monotonic()
    command = [sys.executable, "setup.py", "build_ext", "--inplace"]
    own = ".".join(map(str, torch.cuda.get_device_capability()))  # building for this GPU alone halves the time
    # NVIDIA's images set a long list of architectures, which this replaces.
    environment = {"STGT_BUILD_CUDA": "1", "TORCH_CUDA_ARCH_LIST": own}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "build.log"
        code = finish(start(command, path, **environment), deadline)
        said = path.read_text(errors="replace")
    log(out, "build", said)
    if code:
        failed = "did not end in time" if time.monotonic() >= deadline else "failed"
        raise RuntimeError(f"the build {failed}; its log ends with:\n{said[-6000:]}")
    checks = [Check("compiles", f"{time.monotonic() - begin:.0f} s", "", True), *versions()]
    answers = subprocess.run([sys.executable, "-c", ASK], cwd=ROOT, capture_output=True, text=True)
    if answers.returncode:
        raise RuntimeError(answers.stderr[-2000:])
    for line in answers.stdout.splitlines():
        backend, _, answer = line.partition(": ")
        checks.append(Check(f"{backend} can run here", answer, "yes", answer == "yes"))
    return checks, {}


def versions() -> list[Check]:
    """The packages that a build depends on, which tell a failure on one machine from a failure on all."""
    found = {name: version(name) for name in ("torch", "triton", "setuptools", "ninja", "pybind11")}
    return [Check("versions", ", ".join(f"{name} {version}" for name, version in found.items()))]
