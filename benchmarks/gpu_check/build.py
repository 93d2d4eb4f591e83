"""Builds the extensions in place with the Python that runs this, and checks that the backends can run here."""

import os
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path
from subprocess import PIPE, STDOUT

import torch

from benchmarks.environment import ROOT
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
    environment = {**os.environ, "STGT_BUILD_CUDA": "1", "TORCH_CUDA_ARCH_LIST": own}
    done = subprocess.run(command, cwd=ROOT, env=environment, stdout=PIPE, stderr=STDOUT, text=True)
    log(out, "build", done.stdout)
    if done.returncode:
        raise RuntimeError(f"the build failed; its log ends with:\n{done.stdout[-6000:]}")
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
    found = {name: metadata.version(name) for name in ("torch", "triton", "setuptools", "ninja", "pybind11")}
    return [Check("versions", ", ".join(f"{name} {version}" for name, version in found.items()))]
