"""The kernels need torch alone, and importing them loads nothing else."""

import sys

from helpers.interpreters import python

TORCH_ALONE = """
import importlib.machinery, sys

class TorchAlone(importlib.machinery.PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        if name.partition(".")[0] in {"triton", "transformers", "numpy", "einops", "open_clip", "stgt"}:
            return None
        return super().find_spec(name, path, target)

sys.meta_path = [TorchAlone if finder is importlib.machinery.PathFinder else finder for finder in sys.meta_path]
import torch
from stgt_kernels import dispatch, graph_attention, spatio_temporal_graph

x = torch.randn(1, 2, 20, 16, requires_grad=True)
graph = spatio_temporal_graph(x, threshold=-0.5, differentiable=True)
q = x.view(1, 40, 2, 8).transpose(1, 2)
for backend in ("auto", "cpu", "reference"):
    graph_attention(q, q, q, graph, dropout_p=0.1, backend=backend).sum().backward(retain_graph=True)
assert x.grad.isfinite().all()
assert dispatch.why_not("triton", "cuda") == "triton is not installed; install it with: pip install triton"
assert not {"triton", "transformers", "numpy"} & set(sys.modules)
"""


def test_torch_alone_is_enough():
    result = python(TORCH_ALONE)
    assert result.returncode == 0, result.stderr


def test_importing_loads_neither_kernels_nor_other_packages():
    code = "import torch, sys; before = set(sys.modules); import stgt_kernels; print(*set(sys.modules) - before)"
    result = python(code)
    assert result.returncode == 0, result.stderr
    loaded = set(result.stdout.split())
    assert "stgt_kernels.functional" in loaded and "stgt_kernels._C" not in loaded
    packages = {name.partition(".")[0] for name in loaded} - {"stgt_kernels"}
    assert packages <= {*sys.stdlib_module_names, "torch"}
