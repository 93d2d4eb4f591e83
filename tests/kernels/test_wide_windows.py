"""Wide windows over frames of few tokens: memory grows with the weights of the graph, and not many times as fast."""

import resource
import subprocess
import sys

import pytest

START = """
import resource, torch
from stgt_kernels import SpatioTemporalGraph, graph_attention

def limit(more):
    "Lets this process take so many more bytes."
    used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + more, resource.RLIM_INFINITY))
"""
# The weights take 8 MB, and a map of them that were padded to whole tiles 8 GB.
TILE_MAP = """
weight = torch.zeros(1, 2000, 1, 1001, 1)
weight[:, :, :, 500] = 1
limit(1 << 30)
live = SpatioTemporalGraph(weight).live
assert live.shape == (1, 2000, 1, 1001, 1) and live[:, :, :, 500].all() and live.sum() == 2000
"""
# The weights take 32 MB, and the sums of two segments at least 2 GB.
BACKWARD = """
torch.set_num_threads(2)
weight = torch.zeros(1, 4000, 1, 2001, 1)
weight[:, :, :, 1000] = 1
q = torch.ones(1, 1, 4000, 128, requires_grad=True)
limit(3 << 29)
out = graph_attention(q, q, q, SpatioTemporalGraph(weight), backend="cpu")
(dq,) = torch.autograd.grad(out.sum(), q)
assert torch.equal(dq, torch.ones_like(q))
"""


@pytest.mark.skipif(not hasattr(resource, "RLIMIT_AS") or sys.platform != "linux", reason="limits memory as Linux does")
@pytest.mark.parametrize("code", [TILE_MAP, BACKWARD], ids=["the map of tiles", "the backward pass"])
def test_memory(code):
    done = subprocess.run([sys.executable, "-c", START + code], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
