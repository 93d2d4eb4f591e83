"""The CPU backend asks the system for huge pages under its large outputs."""

import re
from pathlib import Path

import pytest
import torch

from stgt_kernels import graph_attention, spatio_temporal_graph

MAPPINGS = Path("/proc/self/smaps")
ENABLED = Path("/sys/kernel/mm/transparent_hugepage/enabled")
if not ENABLED.exists() or "[never]" in ENABLED.read_text() or "VmFlags:" not in MAPPINGS.read_text():
    pytest.skip("this system has no huge pages, or does not say what was asked of it", allow_module_level=True)


def advice_at(address: int) -> list[str]:
    """The flags of the mapping that holds an address, of which ``hg`` is the advice to use huge pages."""
    for mapping in re.split(r"^(?=[0-9a-f]+-[0-9a-f]+ )", MAPPINGS.read_text(), flags=re.MULTILINE)[1:]:
        first, last = (int(end, 16) for end in mapping.split(" ")[0].split("-"))
        if first <= address < last:
            return mapping.partition("VmFlags:")[2].split()
    raise ValueError(f"no mapping of this process holds the address {address:#x}")


@pytest.mark.parametrize(("frames", "advised"), [(64, True), (32, False)])
def test_an_output_with_a_mapping_of_its_own_is_advised_to_come_in_huge_pages(frames, advised):
    P, H, D = 16, 64, 128
    q = torch.randn(1, H, frames * P, D)
    graph = spatio_temporal_graph(torch.ones(1, frames, P, 8), threshold=0.5, window=0)
    out = graph_attention(q, q, q, graph, backend="cpu")
    assert (out.nbytes >= 2**25) == advised  # From this size on, glibc gives a block a mapping of its own.
    assert ("hg" in advice_at(out.data_ptr() + out.nbytes // 2)) == advised
