"""Dropout on a CPU, and attention with it."""

import pytest
import torch
import torch.nn.functional as F

from stgt.config import QFormerConfig
from stgt.models.bert import Attention
from stgt.models.dropout import Dropout, attention, dropout


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_elements_are_dropped_with_the_given_probability(p, dtype):
    torch.manual_seed(0)
    x = torch.full((999, 1001), 3.0, dtype=dtype)
    y = dropout(x, p)
    kept = y != 0
    # Six standard deviations of the share of kept elements, and the rounding of p to a multiple of 1/65536.
    assert abs(kept.double().mean() - (1 - p)) < 6 * (p * (1 - p) / x.numel()) ** 0.5 + 2**-17
    rtol = 2 * torch.finfo(dtype).eps + 2**-17 / (1 - p)
    torch.testing.assert_close(y[kept], torch.full_like(y[kept], 3 / (1 - p)), rtol=rtol, atol=0)


def test_neighbours_are_dropped_independently():
    """Four elements share one draw of the generator."""
    torch.manual_seed(0)
    kept = (dropout(torch.ones(2**20), 0.5) != 0).double().unflatten(0, (-1, 4)) - 0.5
    correlation = kept.T @ kept / (0.25 * len(kept))
    assert (correlation - torch.eye(4)).abs().max() < 6 * len(kept) ** -0.5


def test_the_gradient_passes_through_kept_elements_alone():
    torch.manual_seed(0)
    x = torch.randn(7, 5, requires_grad=True)
    y = dropout(x, 0.3)
    y.sum().backward()
    assert 0 < (y == 0).sum() < x.numel()
    torch.testing.assert_close(x.grad, (y / x).detach())


def test_a_seed_repeats_the_dropped_elements():
    x = torch.ones(3, 333)
    torch.manual_seed(4)
    first, second = dropout(x, 0.5), dropout(x, 0.5)
    torch.manual_seed(4)
    assert torch.equal(dropout(x, 0.5), first)
    assert not torch.equal(first, second)


def test_smallest_and_largest_probabilities():
    x = torch.ones(1000)
    assert torch.equal(dropout(x, 1e-9), x)
    assert dropout(x, 1 - 1e-9).isfinite().all()
    assert dropout(x[:0], 0.5).shape == (0,)


def test_the_module_drops_nothing_in_evaluation():
    x, module = torch.ones(1000), Dropout(0.5)
    assert (module(x) == 0).any()
    assert module.eval()(x) is x


@pytest.mark.parametrize("masked", [False, True])
def test_attention_without_dropped_elements_is_that_of_pytorch(masked):
    torch.manual_seed(0)
    q, kv = torch.randn(2, 5, 1, 3, 8, dtype=torch.float64), torch.randn(2, 7, 2, 3, 8, dtype=torch.float64)
    q, kv = q.requires_grad_(), kv.requires_grad_()
    bias = (
        torch.zeros(2, 1, 5, 7, dtype=torch.float64).masked_fill(torch.rand(2, 1, 5, 7) < 0.4, -1e4) if masked else None
    )
    out = attention(q, kv, bias, 1e-9)
    queries, keys, values = (part.transpose(1, 2) for part in (q[:, :, 0], *kv.unbind(2)))
    expected = F.scaled_dot_product_attention(queries, keys, values, bias).transpose(1, 2)
    torch.testing.assert_close(out, expected)
    weight = torch.randn_like(out)
    found = torch.autograd.grad((out * weight).sum(), (q, kv))
    torch.testing.assert_close(found, torch.autograd.grad((expected * weight).sum(), (q, kv)))


def test_attention_drops_probabilities_and_keeps_the_mean():
    torch.manual_seed(0)
    q, keys, values = torch.randn(1, 4, 1, 1, 6), torch.randn(6, 6), torch.eye(6)
    kv = torch.stack([keys, values], 1)[None, :, :, None]  # the output is the matrix of probabilities
    draws = torch.stack([attention(q, kv, None, 0.25) for _ in range(4000)])
    expected = F.scaled_dot_product_attention(q[:, :, 0, 0], keys[None], values[None])[:, :, None]
    assert abs((draws == 0).double().mean() - 0.25) < 0.01
    torch.testing.assert_close(draws.mean(0), expected, rtol=6 * (0.25 / 0.75 / 4000) ** 0.5, atol=0)


def test_the_q_former_drops_probabilities_in_training_alone():
    torch.manual_seed(0)
    config = QFormerConfig(hidden=24, layers=1, heads=2, intermediate=48, queries=3, dropout=0.5)
    layer, x = Attention(config, 24), torch.randn(2, 5, 24)
    layer.output.dropout.p = 0.0
    keys_values = torch.randn(2, 7, 48)
    assert not torch.allclose(layer(x, keys_values), layer(x, keys_values))
    layer.eval()
    torch.testing.assert_close(layer(x, keys_values), layer(x, keys_values))


def test_compiled_code_drops_as_pytorch_does():
    torch.manual_seed(0)
    y = torch.compile(lambda x: dropout(x, 0.5), backend="aot_eager", fullgraph=True)(torch.ones(10000))
    assert 4000 < (y == 0).sum() < 6000
