"""The CPU backend asks the system for huge pages under its large outputs."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

MAPPINGS = Path("/proc/self/smaps")
ENABLED = Path("/sys/kernel/mm/transparent_hugepage/enabled")
if not ENABLED.exists() or "[never]" in ENABLED.read_text() or "VmFlags:" not in MAPPINGS.read_text():
    pytest.skip("this system has no huge pages, or does not say what was asked of it", allow_module_level=True)


# A new process, because memory that an earlier test gave back may still have the advice.
ADVICE = """
import re, sys
from pathlib import Path
import torch
from stgt_kernels import graph_attention, spatio_temporal_graph

frames, P, H, D = int(sys.argv[1]), 16, 64, 128
q = torch.randn(1, H, frames * P, D)
graph = spatio_temporal_graph(torch.ones(1, frames, P, 8), threshold=0.5, window=0)
out = graph_attention(q, q, q, graph, backend="cpu")
address = out.data_ptr() + out.nbytes // 2
for mapping in re.split(r"^(?=[0-9a-f]+-[0-9a-f]+ )", Path("/proc/self/smaps").read_text(), flags=re.MULTILINE)[1:]:
    first, last = (int(end, 16) for end in mapping.split(" ")[0].split("-"))
    if first <= address < last:
        print(out.nbytes, "hg" in mapping.partition("VmFlags:")[2].split())  # hg is the advice to use huge pages.
"""


@pytest.mark.parametrize(("frames", "advised"), [(64, True), (32, False)])
def test_an_output_with_a_mapping_of_its_own_is_advised_to_come_in_huge_pages(frames, advised):
    command = [sys.executable, "-c", ADVICE, str(frames)]
    done = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}, capture_output=True, text=True
    )
    nbytes, found = done.stdout.split()
    assert (int(nbytes) >= 2**25) == advised  # From this size on, glibc gives a block a mapping of its own.
    assert found == str(advised)
