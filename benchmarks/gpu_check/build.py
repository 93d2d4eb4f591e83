"""Builds the extensions in place with the Python that runs this, and checks that the backends can run here."""

import os
import subprocess
import sys
import time
from pathlib import Path

import torch

from benchmarks.environment import ROOT
from benchmarks.gpu_check.report import Check

ASK = """
import torch
from stgt_kernels import dispatch
for backend in ("cuda", "triton"):
    print(backend, dispatch.why_not(backend, "cuda", torch.bfloat16) or "yes", sep=": ")
"""


def run(out: Path) -> tuple[list[Check], dict]:
    out.mkdir(parents=True, exist_ok=True)
    begin = time.monotonic()
    with (out / "build.log").open("w") as log:
        command = [sys.executable, "setup.py", "build_ext", "--inplace"]
        own = ".".join(map(str, torch.cuda.get_device_capability()))  # building for this GPU alone halves the time
        environment = {"TORCH_CUDA_ARCH_LIST": own, **os.environ, "STGT_BUILD_CUDA": "1"}
        done = subprocess.run(command, cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT)
    if done.returncode:
        tail = (out / "build.log").read_text()[-6000:]
        raise RuntimeError(f"the build failed; build.log ends with:\n{tail}")
    checks = [Check("compiles", f"{time.monotonic() - begin:.0f} s", "", True)]
    answers = subprocess.run([sys.executable, "-c", ASK], cwd=ROOT, capture_output=True, text=True)
    if answers.returncode:
        raise RuntimeError(answers.stderr[-2000:])
    for line in answers.stdout.splitlines():
        backend, _, answer = line.partition(": ")
        checks.append(Check(f"{backend} can run here", answer, "yes", answer == "yes"))
    return checks, {}
