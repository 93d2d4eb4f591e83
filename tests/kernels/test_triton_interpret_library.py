"""The Triton operators as torch.library, torch.compile and torch.func see them, in Triton's interpreter.

Run as ``TRITON_INTERPRET=1 pytest -m triton_interpret``.
"""

import pytest
import torch
from helpers.cases import heads, same_bits, video_graph

from stgt_kernels import graph_attention, spatio_temporal_graph
from stgt_kernels.testing import video_like_tokens

pytestmark = [
    pytest.mark.triton_interpret,
    pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning"),  # exponents where there is no edge
]


def test_operators():
    """Schemas, fakes and strides of the four leaf operators, as torch.compile relies on them."""
    from stgt_kernels.ops.graph_attention import triton_impl as attention
    from stgt_kernels.ops.spatio_temporal_graph import triton_impl as graphs

    x = video_like_tokens(1, 2, 5, 8, dtype=torch.float16)
    torch.library.opcheck(graphs.forward, (x, 0.5, 1, False))
    weight, live, inv_norm = graphs.forward(x, 0.5, 1, True)
    torch.library.opcheck(graphs.backward, (torch.ones_like(weight), x, weight, inv_norm))
    q, k, v, dout = (heads(1, 2, 10, 8, dtype=torch.float16, seed=seed) for seed in range(4))
    forward = (q, k.contiguous(), v, weight, live, torch.tensor([5]), 0.3, 0.2)
    torch.library.opcheck(attention.forward, forward)
    out, lse = attention.forward(*forward)
    for seed, p, dlse, need_dweight in ((torch.tensor([5]), 0.2, torch.ones_like(lse), True), (None, 0.0, None, False)):
        backward = (dout, q, k, v, weight, live, seed, out, lse, dlse, 0.3, p, need_dweight)
        torch.library.opcheck(attention.backward_op, backward)


def test_compiles_without_a_graph_break():
    def step(x, q, k, v):
        graph = spatio_temporal_graph(x, threshold=0.3, differentiable=True, backend="triton")
        out, lse = graph_attention(q, k, v, graph, return_lse=True, dropout_p=0.2, backend="triton")
        return out.float().square().sum() + lse.sum()

    def gradients(function):
        torch.manual_seed(0)
        leaves = [t.detach().requires_grad_() for t in (x, *operands)]
        return torch.autograd.grad(function(*leaves), leaves)

    x = video_like_tokens(1, 2, 9, 16, dtype=torch.float16)
    operands = [heads(1, 2, 18, 8, dtype=torch.float16, seed=seed) for seed in range(3)]
    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    for name, a, b in zip("xqkv", gradients(compiled), gradients(step), strict=True):
        torch.testing.assert_close(a, b, msg=name)


@pytest.mark.filterwarnings("error:There is a performance drop")  # PyTorch would call the operators in a loop
def test_vmap_folds_samples_into_the_batch():
    x = torch.stack([video_like_tokens(1, 2, 9, 16, seed=seed) for seed in range(3)])
    q, k, v = (heads(3, 2, 18, 8, seed=seed) for seed in range(3))
    graph = video_graph(1, 2, 9)

    def loss(x, q):
        built = spatio_temporal_graph(x, threshold=0.3, differentiable=True, backend="triton")
        out = graph_attention(q, k[:1], v[:1], built, backend="triton")
        return (out + graph_attention(q, k[:1], v[:1], graph, backend="triton")).square().sum()

    each = [torch.func.grad(loss, (0, 1))(a, b) for a, b in zip(x, q[:, None], strict=True)]
    mapped = torch.func.vmap(torch.func.grad(loss, (0, 1)))(x, q[:, None])
    for actual, expected in zip(mapped, zip(*each, strict=True), strict=True):
        assert same_bits(actual, torch.stack(expected))
