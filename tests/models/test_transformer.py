"""CLIP's block computes what its parts say, with fewer passes over memory."""

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from stgt.models.transformer import MLP, attend


def same_gradients(found, expected, inputs):
    weights = torch.randn_like(expected)
    pairs = (torch.autograd.grad((output * weights).sum(), inputs) for output in (found, expected))
    for one, other in zip(*pairs, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("shape", [(2, 5, 8), (2, 3, 5, 8)])
def test_attention_is_that_of_the_module(shape):
    attn = nn.MultiheadAttention(8, 2, batch_first=True, dtype=torch.float64)
    nn.init.normal_(attn.in_proj_bias)
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    flat = x.flatten(0, -3)
    expected = attn(flat, flat, flat)[0].view(shape)
    found = attend(attn, x)
    torch.testing.assert_close(found, expected)
    same_gradients(found, expected, [x, *attn.parameters()])


def test_the_mlp_is_quick_gelu_between_two_linear_layers():
    mlp = MLP(8).double()
    x = torch.randn(3, 5, 8, dtype=torch.float64, requires_grad=True)
    hidden = mlp.c_fc(x)
    expected = mlp.c_proj(hidden * torch.sigmoid(1.702 * hidden))
    found = mlp(x)
    torch.testing.assert_close(found, expected)
    same_gradients(found, expected, [x, *mlp.parameters()])


class Results(TorchDispatchMode):
    """The operators that wrote a tensor of at least so many elements. Those that give a view write nothing."""

    def __init__(self, elements):
        super().__init__()
        self.elements, self.names = elements, []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor) and result.numel() >= self.elements:
            held = {tensor.untyped_storage().data_ptr() for tensor in args if isinstance(tensor, torch.Tensor)}
            if function._schema.is_mutable or result.untyped_storage().data_ptr() not in held:
                self.names.append(function._schema.name.removeprefix("aten::"))
        return result


def test_the_wide_layer_is_written_twice_and_read_back_once():
    mlp, x = MLP(8), torch.randn(2, 100, 8, requires_grad=True)
    with Results(elements=200 * 32) as forward:
        y = mlp(x)
    with Results(elements=200 * 32) as backward:
        y.sum().backward()
    assert forward.names == ["addmm", "silu"] and backward.names == ["mm", "silu_backward"]


def test_attention_copies_no_queries_keys_and_values():
    attn, x = nn.MultiheadAttention(8, 2, batch_first=True), torch.randn(3, 100, 8, requires_grad=True)
    with Results(elements=x.numel()) as forward:
        y = attend(attn, x)
    with Results(elements=x.numel()) as backward:
        y.backward(torch.randn_like(y))
    copies = {"copy_", "clone", "_to_copy", "fill_", "zeros", "select_backward", "add"}
    assert not copies.intersection(forward.names + backward.names), forward.names + backward.names
