"""GraphAttention: its parameters, its text, and PyTorch's conventions for making modules."""

import pytest
import torch
from helpers.cases import video_graph

from stgt_kernels import GraphAttention, graph_attention

NAMES = ["q_proj", "k_proj", "v_proj", "out_proj"]


@pytest.mark.parametrize("bias", [True, False])
def test_names_of_parameters(bias):
    """Checkpoints depend on them."""
    state = GraphAttention(12, 3, bias=bias).state_dict()
    assert list(state) == [f"{name}.{kind}" for name in NAMES for kind in (["weight", "bias"] if bias else ["weight"])]


def test_a_module_without_bias_attends():
    module, graph = GraphAttention(12, 3, bias=False), video_graph(1, 2, 20)
    assert torch.equal(module(torch.zeros(1, 40, 12), graph), torch.zeros(1, 40, 12))


def test_parameters_are_made_on_a_device_and_in_a_dtype():
    module = GraphAttention(12, 3, device="meta", dtype=torch.bfloat16)
    assert {(p.device.type, p.dtype) for p in module.parameters()} == {("meta", torch.bfloat16)}
    with torch.device("meta"):
        assert all(p.is_meta for p in GraphAttention(12, 3).parameters())


def test_text_shows_the_settings():
    module = GraphAttention(12, 3, dropout=0.1, backend="cpu")
    assert module.extra_repr() == "embed_dim=12, num_heads=3, dropout=0.1, backend='cpu'"
    assert repr(module).startswith("GraphAttention(\n  embed_dim=12, num_heads=3")


def test_projections_are_views_of_heads_side_by_side():
    module, x = GraphAttention(12, 3), torch.randn(2, 5, 12)
    q, k, v = module.project(x)
    assert q.shape == k.shape == v.shape == (2, 3, 5, 4)
    for tensor, name in zip((q, k, v), NAMES, strict=False):
        assert torch.equal(tensor.transpose(1, 2).flatten(2), getattr(module, name)(x))
        assert tensor.transpose(1, 2).is_contiguous()
    assert torch.equal(module.merge(q), module.out_proj(q.transpose(1, 2).flatten(2)))


def test_settings_after_the_heads_are_named():
    with pytest.raises(TypeError):
        GraphAttention(12, 3, 0.1)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_dynamic_quantization():
    """PyTorch then replaces the projections by modules that compute with int8, and whose weight is a method."""
    module, graph, x = GraphAttention(12, 3).eval(), video_graph(1, 2, 20), torch.randn(1, 40, 12)
    quantized = torch.ao.quantization.quantize_dynamic(module, {torch.nn.Linear}, dtype=torch.qint8)
    out = quantized(x, graph)
    assert torch.equal(out, quantized.merge(graph_attention(*quantized.project(x), graph)))
    assert not torch.equal(out, module(x, graph))
