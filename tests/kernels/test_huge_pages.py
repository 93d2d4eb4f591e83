"""Large outputs of the CPU backend come in huge pages."""

import resource
from pathlib import Path

import pytest
import torch

from stgt_kernels import graph_attention, spatio_temporal_graph

ENABLED = Path("/sys/kernel/mm/transparent_hugepage/enabled")
if not ENABLED.exists() or "[never]" in ENABLED.read_text():
    pytest.skip("no huge pages here", allow_module_level=True)


def faults() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def test_a_large_output_takes_few_page_faults():
    T, P, H, D = 64, 16, 64, 128
    q = torch.randn(1, H, T * P, D)
    graph = spatio_temporal_graph(torch.ones(1, T, P, 8), threshold=0.5, window=0)
    graph_attention(q, q, q, graph, backend="cpu")  # the workspace's pages
    before = faults()
    out = graph_attention(q, q, q, graph, backend="cpu")
    assert out.nbytes == 2**25  # the least that is a mapping of its own
    assert faults() - before < out.nbytes / 4096 / 4
