"""Dropout in graph_attention: the mask is fair, and the same on every backend, forward and backward."""

import pytest
import torch
from helpers.bounds import assert_attention_errors
from helpers.cases import (
    DTYPES,
    GPU_BACKENDS,
    assert_share,
    dtype_name,
    each_backend,
    each_kernel,
    heads,
    mask_after,
    on,
    run_attention,
    same_bits,
    video_graph,
)

from stgt_kernels import graph_attention
from stgt_kernels.ops.graph_attention import philox


def probabilities(q, k, graph, p, backend, seed):
    """The attention probabilities after dropout, (B, H, N, N). Attention of one-hot values gives them."""
    B, H, N, D = q.shape
    q, k, graph = on(backend, q, k, graph)
    columns = []
    for start in range(0, N, D):
        v = torch.eye(N, dtype=q.dtype, device=q.device)[:, start : start + D]
        torch.manual_seed(seed)
        v = torch.nn.functional.pad(v, (0, D - v.shape[1])).expand(B, H, N, D)
        columns.append(graph_attention(q, k, v, graph, dropout_p=p, backend=backend))
    return torch.cat(columns, -1)[..., :N].cpu()


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        ((0, 0, 0, 0), (0, 0), (0x5F6FB709, 0x0D893F64, 0x4F121F81, 0x4F730A48)),
        ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x5207DDC2, 0x45165E59, 0x4D8EE751, 0x8C52F662)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0x4DFCCABA, 0x190A87F0, 0xC47362BA, 0xB6B5242A),
        ),
    ],
)
def test_philox_gives_the_published_answers(counter, key, expected):
    """These are the known answers of philox4x32 with 7 rounds, with which Random123 is tested."""
    words = philox.philox(*(tuple(torch.tensor(word) for word in words) for words in (key, counter)))
    assert tuple(int(word) for word in words) == expected


@each_backend
@pytest.mark.parametrize(("T", "P"), [(1, 1), (3, 7), (2, 33), (2, 64), (1, 130), (3, 70)])
@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_the_mask_is_the_documented_one(backend, T, P, p):
    B, H, D = 2, 2, 128
    graph = video_graph(B, T, P, threshold=-1)
    q, k = (heads(B, H, T * P, D, seed=seed) for seed in range(2))
    keep, keep_prob = mask_after(5, B, H, T, P, p, backend)
    actual = probabilities(q, k, graph, p, backend, seed=5)
    edge = graph.to_dense()[:, None] != 0
    assert torch.equal(actual != 0, edge & keep)
    undropped = probabilities(q, k, graph, 0.0, "reference", seed=5)
    torch.testing.assert_close(actual, undropped * keep / keep_prob, rtol=1e-5, atol=1e-6)


@each_kernel
@pytest.mark.parametrize("dtype", DTYPES, ids=dtype_name)
def test_forward_and_backward_against_the_definition(dtype, backend):
    graph = video_graph(2, 3, 70, dtype=dtype)
    q, k, v, dout = (heads(2, 2, 210, 24, dtype=dtype, seed=seed) for seed in range(4))
    keep, keep_prob = mask_after(0, 2, 2, 3, 70, 0.3, backend)
    torch.manual_seed(0)
    actual = run_attention(q, k, v, graph, dout, backend=backend, dropout_p=0.3)
    assert_attention_errors(actual, q, k, v, graph, dout, keep=keep, keep_prob=keep_prob)


@each_backend
def test_one_draw_from_the_default_generator_each_call(backend):
    graph, q, k, v = on(backend, video_graph(1, 2, 50), *(heads(1, 2, 100, 24, seed=seed) for seed in range(3)))

    def draw(p):
        return graph_attention(q, k, v, graph, dropout_p=p, backend=backend)

    first, second = draw(0.2), draw(0.2)
    assert not torch.equal(first, second)
    torch.manual_seed(0)
    draw(0.0)  # this call draws no number
    assert same_bits(draw(0.2), first) and same_bits(draw(0.2), second)


@each_kernel
def test_dropout_does_not_change_lse(backend):
    graph, q, k, v = on(backend, video_graph(1, 2, 50), *(heads(1, 2, 100, 24, seed=seed) for seed in range(3)))
    _, lse = graph_attention(q, k, v, graph, return_lse=True, backend=backend)
    assert same_bits(graph_attention(q, k, v, graph, return_lse=True, dropout_p=0.5, backend=backend)[1], lse)


@each_backend
@pytest.mark.parametrize("p", [1e-12, 0.49 / 65536])
def test_a_probability_below_the_mask_s_resolution_drops_nothing(backend, p):
    graph = video_graph(1, 2, 50)
    q, k, v, dout = (heads(1, 2, 100, 24, seed=seed) for seed in range(4))
    expected = run_attention(q, k, v, graph, dout, backend=backend)
    actual = run_attention(q, k, v, graph, dout, backend=backend, dropout_p=p)
    for name in expected:
        torch.testing.assert_close(actual[name], expected[name], msg=name)


@each_backend
def test_a_probability_close_to_one_keeps_its_share_exactly(backend):
    dtype = torch.float32 if backend in GPU_BACKENDS else torch.float64
    graph = video_graph(1, 1, 200, threshold=-1, dtype=dtype)
    q, k = (heads(1, 8, 200, 128, dtype=dtype, seed=seed) for seed in range(2))
    p = 1 - 2**-16
    keep, keep_prob = mask_after(3, 1, 8, 1, 200, 1 - 1e-15, backend)
    assert keep_prob == 2**-16 == philox.keep_prob(p)
    actual = probabilities(q, k, graph, 1 - 1e-15, backend, seed=3)
    assert 0 < keep.sum() < 30 and torch.equal(actual != 0, keep & (graph.to_dense()[:, None] != 0))
    undropped = probabilities(q, k, graph, 0.0, backend, seed=3)
    torch.testing.assert_close(actual, undropped * keep * 65536)


@pytest.mark.parametrize("p", [0.1, 0.5, 0.75])
def test_the_mask_is_fair(p):
    """The shares of kept edges, and of pairs of neighbours along every axis, are within 4.5 standard deviations."""
    keep, keep_prob = philox.keep_mask(torch.tensor([(1 << 62) + 12345]), 4, 4, 3, 65, p)
    another, _ = philox.keep_mask(torch.tensor([12345]), 4, 4, 3, 65, p)  # only the key's high word differs
    assert keep_prob == pytest.approx(1 - p, abs=1 / 65536)

    assert_share(keep, keep_prob)
    both = keep_prob**2
    assert_share(keep & another, both)
    for axis in range(4):
        for step in (1, 2, 8, 32, 64):
            if step < keep.shape[axis]:
                size = keep.shape[axis] - step
                assert_share(keep.narrow(axis, 0, size) & keep.narrow(axis, step, size), both)
    for axis in ((0, 1, 2), (0, 1, 3)):  # the share of each column, and of each row
        share = keep.double().mean(axis)
        deviation = (keep_prob * (1 - keep_prob) / (keep.numel() / share.numel())) ** 0.5
        assert ((share - keep_prob).abs() < 5 * deviation).all()


@each_backend
def test_dropout_keeps_the_mean(backend):
    graph, q, k, v = on(backend, video_graph(1, 1, 60), *(heads(1, 1, 60, 8, seed=seed) for seed in range(3)))
    expected = graph_attention(q, k, v, graph, backend=backend)
    draws = torch.stack([graph_attention(q, k, v, graph, dropout_p=0.4, backend=backend) for _ in range(400)])
    error = (draws.mean(0) - expected) / (draws.std(0) / 20 + 1e-6)
    assert error.abs().max() < 5.5 and error.square().mean() < 1.5
