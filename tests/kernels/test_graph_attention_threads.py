"""The backward pass cuts heads into segments where there are more threads than heads, and no bit changes."""

import pytest
import torch
from helpers.cases import heads, same_bits, video_graph

from stgt_kernels import _C, SpatioTemporalGraph, graph_attention


@pytest.fixture
def on_threads():
    """on_threads(n, function) calls a function with n threads."""
    before = torch.get_num_threads()

    def call(threads, function):
        torch.set_num_threads(threads)
        return function()

    yield call
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("sizes", "segments"),
    [
        (dict(heads=16, frames=8, window=1, threads=2), 1),
        (dict(heads=16, frames=8, window=1, threads=16), 1),
        (dict(heads=16, frames=8, window=1, threads=17), 2),
        (dict(heads=16, frames=8, window=1, threads=64), 4),
        (dict(heads=16, frames=8, window=1, threads=1000), 4),
        (dict(heads=4, frames=9, window=2, threads=64), 2),
        (dict(heads=4, frames=9, window=8, threads=64), 1),
        (dict(heads=4, frames=9, window=0, threads=64), 9),
        (dict(heads=4, frames=1, window=0, threads=64), 1),
        (dict(heads=0, frames=4, window=1, threads=64), 1),
    ],
)
def test_heads_are_cut_as_far_as_threads_need_it(sizes, segments):
    assert _C.graph_attention_bwd_segments(**sizes) == segments


def gradients(q, k, v, weight, dout, dlse, **options):
    inputs = [x.clone().requires_grad_() for x in (q, k, v)]
    weights = weight.clone().requires_grad_(weight.dtype != torch.float16)
    out, lse = graph_attention(*inputs, SpatioTemporalGraph(weights), return_lse=True, backend="cpu", **options)
    wanted = [*inputs, *([weights] if weights.requires_grad else [])]
    return torch.autograd.grad([out, lse], wanted, [dout, dlse])


CASES = {
    "one tile": dict(T=6, P=20, window=1),
    "parts of tiles": dict(T=5, P=70, window=1, D=19, batch=2),
    "window 2": dict(T=9, P=20, window=2),
    "window 0": dict(T=4, P=33, window=0),
    "dropout": dict(T=6, P=70, window=1, dropout_p=0.3),
    "bfloat16": dict(T=6, P=70, window=1, dtype=torch.bfloat16),
    "float16": dict(T=6, P=70, window=1, dtype=torch.float16),
    "float64": dict(T=6, P=70, window=1, dtype=torch.float64),
    "no edges in a tile": dict(T=6, P=130, window=1, empty=True),
    "not finite": dict(T=6, P=20, window=1, bad=float("nan")),
}


@pytest.mark.parametrize("case", CASES)
def test_any_number_of_threads_gives_the_same_bits(case, on_threads):
    c = dict(D=16, batch=1, dropout_p=0.0, dtype=torch.float32, empty=False, bad=None) | CASES[case]
    q, k, v, dout = (heads(c["batch"], 1, c["T"] * c["P"], c["D"], seed=seed).to(c["dtype"]) for seed in range(4))
    weight = video_graph(c["batch"], c["T"], c["P"], window=c["window"], dtype=c["dtype"]).weight
    if c["empty"]:
        weight[:, :, :64, :, 64:128] = 0
    if c["bad"] is not None:
        for x in (q, k, dout):
            x[0, 0, 3 * c["P"]] = c["bad"]
    dlse = torch.randn(c["batch"], 1, c["T"] * c["P"], generator=torch.Generator().manual_seed(9))
    dlse = dlse.to(torch.float64 if c["dtype"] == torch.float64 else torch.float32)

    def run():
        torch.manual_seed(0)  # the seed of the dropout
        return gradients(q, k, v, weight, dout, dlse, dropout_p=c["dropout_p"])

    sizes = dict(heads=c["batch"], frames=c["T"], window=c["window"])
    expected = on_threads(1, run)
    counts = [_C.graph_attention_bwd_segments(**sizes, threads=threads) for threads in (1, 3, 64)]
    assert counts[0] == 1 < counts[1] <= counts[2]
    for threads in (3, 64):
        for found, right in zip(on_threads(threads, run), expected, strict=True):
            assert same_bits(found, right)
