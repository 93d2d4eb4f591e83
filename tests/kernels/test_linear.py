"""Linear layers are those of PyTorch, and their kernels run where they are meant to."""

from functools import partial
from random import Random

import pytest
import torch
import torch.nn.functional as F
from helpers.called import calls, under_a_dispatch_mode
from helpers.poison import poisoned_memory
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import forward_ad
from torch.nn.utils import parametrize
from torch.utils.flop_counter import FlopCounterMode

from stgt_kernels import _C, dispatch, linear
from stgt_kernels.ops.linear import functional
from stgt_kernels.ops.linear.functional import LEAST_WORK, most_weights
from stgt_kernels.plain import is_plain, project
from stgt_kernels.testing import assert_close

on_kernels = partial(calls, "stgt_kernels::linear_fwd")


@pytest.fixture(autouse=True)
def any_size(monkeypatch):
    """Runs weights of any size on the kernels, whose CPU this may be."""
    monkeypatch.setattr(functional, "most_weights", lambda: 1 << 40)


def results(function, x, weight, bias, dout):
    """out, and the gradients."""
    leaves = [t.detach().requires_grad_() for t in (x, weight, bias) if t is not None]
    out = function(*leaves)
    return [out.detach(), *torch.autograd.grad(out, leaves, dout)]


def assert_right(x, weight, bias, dout):
    """Fails if a result errs more than twice as much as PyTorch's function does in float32."""
    wide = [None if t is None else t.double() for t in (x, weight, bias, dout)]
    exact, plain = results(F.linear, *wide), results(F.linear, x, weight, bias, dout)
    with poisoned_memory():
        found = results(linear, x, weight, bias, dout)
    for name, one, same, right in zip(("out", "dx", "dweight", "dbias"), found, plain, exact, strict=False):
        assert_close(one, same, right, name)


@pytest.mark.parametrize("seed", range(40))
def test_cpu_kernels_equal_pytorch(seed):
    draw, generator = Random(seed), torch.Generator().manual_seed(seed)
    K, N = (draw.choice([1, 2, 3, 7, 15, 16, 17, 33, 48, 49, 64, 100, 128, 257]) for _ in range(2))
    least = -(-LEAST_WORK // (K * N))
    M = draw.choice([least, least + 1, least + 47, max(least, 2047), max(least, 2049), max(least, 4100)])
    x = torch.randn(M, K, generator=generator)
    layout = draw.choice(["contiguous", "wider", "transposed", "repeated"])
    if layout == "wider":
        room = torch.randn(M, K + 3, generator=generator)
        room[:, 1:-2] = x
        x = room[:, 1:-2]
    elif layout == "transposed":
        x = x.t().contiguous().t()
    elif layout == "repeated":
        x = x[:1].expand(M, K)
    weight = torch.randn(N, K, generator=generator)
    weight = weight if draw.random() < 0.7 else weight.t().contiguous().t()
    bias = torch.randn(N, generator=generator).repeat_interleave(2)[::2] if draw.random() < 0.7 else None
    dout = torch.randn(M, N, generator=generator)
    dout = draw.choice([dout, dout, dout[:1].expand(M, N), dout[:1, :1].expand(M, N), dout.t().contiguous().t()])
    assert on_kernels(lambda: linear(x, weight, bias))
    assert_right(x, weight, bias, dout)


def test_the_gradient_of_the_bias_rounds_little_if_there_are_many_rows():
    generator = torch.Generator().manual_seed(42)
    x, dout = torch.zeros(1 << 17, 16), torch.randn(1 << 17, 1, generator=generator)
    *_, dbias = results(linear, x, torch.zeros(1, 16), torch.zeros(1), dout)
    error = dbias.double() - dout.double().sum(0)
    assert error.abs().item() < 1.5e-7 * dout.double().norm()


@pytest.mark.parametrize(
    ("M", "N", "K"),
    [
        (2, 1537, 1400),
        (49, 770, 1538),
        (64, 3072, 768),
        (97, 129, 2305),
        (300, 25, 769),
        (2100, 130, 385),
        (5000, 49, 1153),
        (21, 30523, 70),
    ],
)
def test_cpu_weights_wider_than_a_block_equal_pytorch(M, N, K):
    generator = torch.Generator().manual_seed(0)
    x, weight, bias, dout = (torch.randn(shape, generator=generator) for shape in ((M, K), (N, K), (N,), (M, N)))
    assert on_kernels(lambda: linear(x, weight, bias))
    assert_right(x, weight, bias, dout)
    assert_right(x, weight, None, dout)


def test_cpu_any_number_of_dimensions():
    generator = torch.Generator().manual_seed(0)
    weight, bias = torch.randn(64, 64, generator=generator), torch.randn(64, generator=generator)
    x = torch.randn(3, 5, 40, 64, generator=generator)
    assert_right(x, weight, bias, torch.randn(3, 5, 40, 64, generator=generator))
    assert_right(x.transpose(1, 2), weight, bias, torch.randn(3, 40, 5, 64, generator=generator))
    assert linear(x, weight, bias).shape == (3, 5, 40, 64)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_cpu_numbers_that_are_not_finite_reach_what_they_reach_in_pytorch(value):
    x, weight, bias = torch.randn(700, 50), torch.randn(60, 50), torch.randn(60)
    for tensor in (x, weight, bias):
        changed = [t.clone() if t is tensor else t for t in (x, weight, bias)]
        next(t for t, same in zip(changed, (x, weight, bias), strict=True) if t is not same).view(-1)[5] = value
        assert torch.equal(linear(*changed).isfinite(), F.linear(*changed).isfinite())


@pytest.mark.parametrize(("M", "N", "K"), [(500, 96, 64), (5000, 96, 64), (100, 400, 1600), (3000, 200, 400)])
def test_cpu_threads_change_no_bit(M, N, K):
    x, weight, bias, dout = torch.randn(M, K), torch.randn(N, K), torch.randn(N), torch.randn(M, N)
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 7):
            torch.set_num_threads(threads)
            found.append(results(linear, x, weight, bias, dout))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for other in found[1:] for a, b in zip(found[0], other, strict=True))


def test_only_needed_gradients_are_computed():
    x, weight, bias = torch.randn(600, 64), torch.randn(64, 64), torch.randn(64)
    for needed in ({0}, {1}, {2}, {0, 1}, {0, 2}, {1, 2}, {0, 1, 2}):
        leaves = [t.clone().requires_grad_(n in needed) for n, t in enumerate((x, weight, bias))]
        plain = [t.clone().requires_grad_(n in needed) for n, t in enumerate((x, weight, bias))]
        linear(*leaves).square().sum().backward()
        F.linear(*plain).square().sum().backward()
        for leaf, other in zip(leaves, plain, strict=True):
            assert (leaf.grad is None) == (other.grad is None)
            if leaf.grad is not None:
                torch.testing.assert_close(leaf.grad, other.grad, rtol=1e-4, atol=1e-3)


def test_a_frozen_weight_keeps_no_input_and_a_result_can_be_changed_in_place():
    x, weight, bias = torch.randn(3, 200, 64, requires_grad=True), torch.randn(64, 64), torch.randn(64)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.shape) or t, lambda t: t):
        out = linear(x, weight, bias)
        assert kept == [weight.shape]
        kept.clear()
        linear(x.detach(), weight.clone().requires_grad_(), bias)
        assert kept == [x.shape]
    changed = out.relu_()
    assert changed is out
    (found,) = torch.autograd.grad(changed.sum(), x)
    (expected,) = torch.autograd.grad(F.linear(x, weight, bias).relu().sum(), x)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_the_gradients_of_a_batch():
    x, weight, bias = torch.randn(600, 64), torch.randn(64, 64), torch.randn(64)
    douts, found = torch.randn(2, 600, 64), []
    for function in (linear, F.linear):
        leaves = [t.clone().requires_grad_() for t in (x, weight, bias)]
        found.append(torch.autograd.grad(function(*leaves), leaves, douts, is_grads_batched=True))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-3)


def test_second_derivatives():
    def second(function, x, weight, bias):
        leaves = [t.detach().requires_grad_() for t in (x, weight, bias)]
        first = torch.autograd.grad(function(*leaves).pow(3).mean(), leaves, create_graph=True)
        return torch.autograd.grad(sum(g.square().sum() for g in first), leaves)

    tensors = torch.randn(600, 64), torch.randn(64, 64) / 8, torch.randn(64)
    assert on_kernels(lambda: linear(*tensors))
    for found, expected in zip(second(linear, *tensors), second(F.linear, *tensors), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


def test_other_cases_are_left_to_pytorch(monkeypatch):
    x, weight, bias = torch.randn(600, 64), torch.randn(64, 64), torch.randn(64)
    wide, row = torch.randn(101, 64), torch.randn(1, 64)
    assert on_kernels(lambda: linear(row.expand(2, -1), torch.zeros(1 << 15, 64)))
    monkeypatch.setattr(functional, "most_weights", lambda: 6400)
    assert on_kernels(lambda: linear(x, weight, bias)) and on_kernels(lambda: linear(x, wide[:-1]))
    for function in (
        lambda: linear(x.double(), weight.double(), bias.double()),
        lambda: linear(x.bfloat16(), weight.bfloat16()),
        lambda: linear(x, wide),
        lambda: linear(x[:2], weight),
        lambda: linear(row, torch.zeros(1 << 15, 64)),
        lambda: under_a_dispatch_mode(linear, x, weight),
        lambda: linear(x[:0], weight),
        lambda: linear(x.to("meta"), weight.to("meta")),
        lambda: linear(x.to_sparse(), weight),
        lambda: torch.func.vmap(lambda part: linear(part, weight))(x.view(2, 300, 64)),
    ):
        assert not on_kernels(function)
    with torch.autocast("cpu", torch.bfloat16):
        assert linear(x, weight, bias).dtype == torch.bfloat16
    for backend in ("reference", "cuda"):
        with dispatch.use_backend(backend):
            assert not on_kernels(lambda: linear(x, weight, bias))
    with dispatch.use_backend("cpu"):
        assert on_kernels(lambda: linear(x, weight, bias))
    with forward_ad.dual_level():
        found, expected = (
            forward_ad.unpack_dual(function(forward_ad.make_dual(x, x.cos()), weight, bias)).tangent
            for function in (linear, F.linear)
        )
        torch.testing.assert_close(found, expected)
    compiled = torch.compile(linear, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x, weight, bias), F.linear(x, weight, bias), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(linear(x[0], weight, bias), F.linear(x[0], weight, bias))
    torch.testing.assert_close(linear(x, weight[0]), F.linear(x, weight[0]))


@pytest.mark.parametrize(
    "shapes",
    [
        ((600, 63), (64, 64), (64,)),
        ((600, 64), (64, 64), (63,)),
        ((600, 64), (64, 64), (1, 64, 1)),
        ((), (LEAST_WORK, 1), (LEAST_WORK,)),
    ],
)
def test_shapes_that_do_not_fit_get_pytorchs_error(shapes):
    tensors = [torch.randn(shape) for shape in shapes]
    messages = []
    for function in (linear, F.linear):
        with pytest.raises(RuntimeError) as raised:
            function(*tensors)
        messages.append(str(raised.value))
    assert messages[0] == messages[1]


def test_a_direct_call_of_the_operators_is_checked():
    x, weight, bias, dout = torch.randn(20, 8), torch.randn(6, 8), torch.randn(6), torch.randn(20, 6)
    for arguments, message in (
        ((x, weight[:, :7], None), "weight must have size 8 in dimension 1, got 7"),
        ((x.double(), weight, None), "x must be float32, got float64"),
        ((x, weight.double(), None), "weight must be float32, got float64"),
        ((x, weight, bias[:5]), "bias must have size 6 in dimension 0, got 5"),
        ((x, weight, bias.double()), "bias must be float32, got float64"),
        ((x[0], weight, None), "x must be .M, K. and weight .N, K., got 1 and 2 dimensions"),
        ((x, weight[0], None), "x must be .M, K. and weight .N, K., got 2 and 1 dimensions"),
        ((x[:0], weight, None), "1 <= M, 1 <= N and 1 <= K, got 0, 6 and 8"),
        ((x, weight[:0], None), "1 <= M, 1 <= N and 1 <= K, got 20, 0 and 8"),
        ((x[:, :0], weight[:, :0], None), "1 <= M, 1 <= N and 1 <= K, got 20, 6 and 0"),
    ):
        with pytest.raises(RuntimeError, match=f"linear_fwd: {message}"):
            torch.ops.stgt_kernels.linear_fwd(*arguments)
    for arguments, message in (
        ((dout[:, :5], x, weight), "weight must have size 5 in dimension 0, got 6"),
        ((dout[:19], x, weight), "x must have size 19 in dimension 0, got 20"),
        ((dout.double(), x, weight), "dout must be float32, got float64"),
        ((dout, x.double(), weight), "x must be float32, got float64"),
        ((dout, None, weight.double()), "weight must be float32, got float64"),
        ((dout[0], x, weight), "dout, x and weight must have 2 dimensions"),
        ((dout, x[0], None), "dout, x and weight must have 2 dimensions"),
        ((dout, None, weight[0]), "dout, x and weight must have 2 dimensions"),
        ((dout[:0], x[:0], None), "1 <= M, 1 <= N and 1 <= K, got 0, 6 and 8"),
        ((dout, None, None), "x or weight must be given"),
    ):
        with pytest.raises(RuntimeError, match=f"linear_bwd: {message}"):
            torch.ops.stgt_kernels.linear_bwd(*arguments)
    shapes = [tuple(t.shape) for t in torch.ops.stgt_kernels.linear_bwd(dout, x, None)]
    shapes += [tuple(t.shape) for t in torch.ops.stgt_kernels.linear_bwd(dout, None, weight)]
    assert shapes == [(0,), (6, 8), (6,), (20, 8), (0,), (0,)]


@pytest.mark.parametrize(
    ("vendor", "most"), [("AuthenticAMD", float("inf")), ("GenuineIntel", 1 << 17), ("HygonGenuine", 0), ("", 0)]
)
def test_the_largest_weight_follows_from_the_vendor(vendor, most, monkeypatch):
    info = _C.build_info()
    monkeypatch.setattr(_C, "build_info", lambda: info | {"cpu_vendor": vendor})
    found = most_weights.__wrapped__()
    assert found == most or (most == float("inf") and found > 1 << 50)


def test_layers_that_compute_more_than_their_weights_are_called():
    x, called = torch.randn(600, 64), []
    layer = nn.Linear(64, 64)
    assert is_plain(layer) and on_kernels(lambda: project(layer, x))
    torch.testing.assert_close(project(layer, x), layer(x), rtol=1e-4, atol=1e-5)

    hook = layer.register_forward_hook(lambda module, given, out: called.append(out) or 2 * out)
    assert not is_plain(layer)
    assert torch.equal(project(layer, x), layer(x)) and len(called) == 2
    hook.remove()
    hook = layer.register_full_backward_hook(lambda *given: called.append(given))
    project(layer, x).sum().backward()
    assert len(called) == 3
    hook.remove()
    assert is_plain(layer)

    class Double(nn.Module):
        def forward(self, weight):
            return 2 * weight

    parametrize.register_parametrization(layer, "weight", Double())
    assert not is_plain(layer) and torch.equal(project(layer, x), layer(x))

    replaced = nn.Linear(64, 64)
    replaced.forward = lambda x: x + 1
    assert not is_plain(replaced) and torch.equal(project(replaced, x), x + 1)
    assert torch.equal(project(nn.Identity(), x), x)


def test_flops_are_counted_and_fake_tensors_work():
    x, weight, bias = torch.randn(600, 64), torch.randn(64, 64, requires_grad=True), torch.randn(64)
    with FlopCounterMode(display=False) as counter:
        linear(x, weight, bias).sum().backward()
    assert counter.get_total_flops() == 2 * 2 * 600 * 64 * 64
    with FakeTensorMode(allow_non_fake_inputs=True):
        assert linear(x, weight, bias).shape == (600, 64)
