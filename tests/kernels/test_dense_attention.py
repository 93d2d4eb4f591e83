"""Dense attention of packed tensors is softmax attention, and its kernels run where they are meant to."""

from functools import partial
from random import Random

import pytest
import torch
import torch.nn.functional as F
from helpers.called import called, calls, under_a_dispatch_mode
from helpers.poison import poisoned_memory

from stgt_kernels import dispatch, packed_attention
from stgt_kernels.ops.dense_attention.functional import MOST_KEYS
from stgt_kernels.testing import assert_close

FORMS = ("qkv", "q, kv", "q, k, v")

on_kernels = partial(calls, "stgt_kernels::dense_attention_fwd")


def dense(*packed, bias=None):
    """The definition, in plain PyTorch."""
    q, k, v = (part.transpose(1, 2) for tensor in packed for part in tensor.unbind(2))
    scores = q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5
    return ((scores if bias is None else scores + bias).softmax(-1) @ v).transpose(1, 2)


def packed_tensors(form, B, M, N, H, D, generator, dtype=torch.float32):
    sizes = {"qkv": [(N, 3)], "q, kv": [(M, 1), (N, 2)], "q, k, v": [(M, 1), (N, 1), (N, 1)]}[form]
    return [torch.randn(B, rows, parts, H, D, generator=generator, dtype=dtype) for rows, parts in sizes]


def results(function, packed, bias, dout):
    """out, and the gradients of the packed tensors."""
    leaves = [tensor.detach().requires_grad_() for tensor in packed]
    out = function(*leaves, bias=bias)
    return [out.detach(), *torch.autograd.grad(out, leaves, dout)]


def assert_right(packed, bias, dout):
    """Fails if a result errs more than twice as much as the definition in plain PyTorch does in the same dtype."""
    wide = [tensor.double() for tensor in packed]
    exact = results(dense, wide, None if bias is None else bias.double(), dout.double())
    plain = results(dense, packed, bias, dout)
    # A gradient is a difference of terms of the size of dout . v.
    terms = (dout.double().norm(dim=-1).max() * wide[-1].norm(dim=-1).max()).item()
    with poisoned_memory():
        found = results(packed_attention, packed, bias, dout)
    assert len(found) == len(exact)
    for number, (one, same, right) in enumerate(zip(found, plain, exact, strict=True)):
        assert one.dtype == right.dtype or one.dtype == packed[0].dtype
        assert_close(one, same, right, f"result {number}", terms=terms if number else 0.0)


def views(tensor, draw, generator):
    """The same numbers in another layout."""
    kind = draw.choice(["contiguous", "wider", "heads first", "last strided", "repeated"])
    if kind == "wider":
        room = torch.randn(*tensor.shape[:-1], tensor.shape[-1] + 3, generator=generator, dtype=tensor.dtype)
        room[..., 2:-1] = tensor
        return room[..., 2:-1]
    if kind == "heads first":
        return tensor.permute(3, 0, 2, 1, 4).contiguous().permute(1, 3, 2, 0, 4)
    if kind == "last strided":
        return torch.stack([tensor, tensor], -1)[..., 0]
    if kind == "repeated":
        return tensor[:1].expand(tensor.shape)
    return tensor


@pytest.mark.parametrize("seed", range(60))
def test_cpu_kernels_equal_the_definition(seed):
    draw, generator = Random(seed), torch.Generator().manual_seed(seed)
    form = draw.choice(FORMS)
    B, H = draw.randint(1, 3), draw.randint(1, 4)
    M, N = (draw.choice([1, 2, 7, 15, 16, 17, 33, 49, 63, 64, 65, 97, 129, 197, 300]) for _ in range(2))
    M = N if form == "qkv" else M
    D, dtype = (
        draw.choice([1, 2, 3, 8, 15, 16, 17, 24, 31, 32, 64, 88, 128]),
        draw.choice([torch.float32, torch.float64]),
    )
    packed = [views(t, draw, generator) for t in packed_tensors(form, B, M, N, H, D, generator, dtype)]
    shape = (draw.choice([1, B]), draw.choice([1, H]), M, N)
    bias = draw.choice([None, torch.randn(shape, generator=generator, dtype=dtype)])
    if bias is not None and draw.random() < 0.5:
        left_out = torch.rand(shape, generator=generator) < 0.5
        left_out[..., 0] = False  # each row keeps a pair
        bias = bias.masked_fill(left_out, draw.choice([float("-inf"), -1e4, torch.finfo(dtype).min]))
    if bias is not None and draw.random() < 0.5:
        bias = bias.mT.contiguous().mT
    dout = views(torch.randn(B, M, 1, H, D, generator=generator, dtype=dtype), draw, generator)[:, :, 0]
    assert on_kernels(lambda: packed_attention(*packed, bias=bias))
    assert_right(packed, bias, dout)


def test_cpu_scores_of_any_size():
    """Large scores are rounded alike in both passes, so no probability exceeds 1."""
    generator = torch.Generator().manual_seed(0)
    for size in (1e-3, 30.0, 1e4):
        (qkv,) = packed_tensors("qkv", 2, 40, 40, 2, 16, generator)
        qkv[:, :, :2] *= size**0.5
        assert_right([qkv], None, torch.randn(2, 40, 2, 16, generator=generator))


def test_cpu_a_row_that_is_left_out_is_zero():
    generator = torch.Generator().manual_seed(0)
    packed = packed_tensors("q, kv", 1, 5, 70, 2, 16, generator)
    bias = torch.zeros(1, 1, 5, 70)
    bias[..., 2, :] = float("-inf")
    out, dq, dkv = results(packed_attention, packed, bias, torch.ones(1, 5, 2, 16))
    assert not out[:, 2].any() and not dq[:, 2].any() and out[:, 1].all() and dkv.isfinite().all()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("part", range(3))
def test_cpu_numbers_that_are_not_finite_reach_what_they_reach_in_pytorch(part, value):
    (qkv,) = packed_tensors("qkv", 1, 20, 20, 1, 16, torch.Generator().manual_seed(0))
    qkv[0, 3, part, 0, 5] = value
    found, expected = packed_attention(qkv), dense(qkv)
    assert torch.equal(found.isfinite(), expected.isfinite()) and not found.isfinite().all()


@pytest.mark.parametrize(("B", "N"), [(3, 130), (1, 600)])
def test_cpu_threads_change_no_bit(B, N):
    generator = torch.Generator().manual_seed(0)
    packed, dout = packed_tensors("qkv", B, N, N, 4, 32, generator), torch.randn(B, N, 4, 32, generator=generator)
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 7):
            torch.set_num_threads(threads)
            found.append(results(packed_attention, packed, None, dout))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for other in found[1:] for a, b in zip(found[0], other, strict=True))


@pytest.mark.parametrize("hidden", [-1e4, torch.finfo(torch.float32).min, float("-inf")])
def test_cpu_keys_with_a_large_negative_bias_get_nothing(hidden):
    """PyTorch's probability of such a key is 0, too, so even its infinite gradient has no effect."""
    generator = torch.Generator().manual_seed(0)
    packed = packed_tensors("q, kv", 1, 5, 70, 2, 16, generator)
    bias = torch.zeros(1, 1, 5, 70).masked_fill(torch.arange(70) >= 40, hidden)
    _, _, dkv = results(packed_attention, packed, bias, 1e30 * torch.ones(1, 5, 2, 16))
    assert not dkv[:, 40:].any() and dkv[:, :40].any()


@pytest.mark.parametrize(("dtype", "below", "value"), [(torch.float32, 86, 1e36), (torch.float64, 700, 1e300)])
def test_cpu_keys_with_a_small_probability_keep_it(dtype, below, value):
    """A probability is only 0 where it is no normal number."""
    q, v = torch.ones(1, 3, 1, 1, 1, dtype=dtype), torch.zeros(1, 20, 1, 1, 1, dtype=dtype)
    v[0, 7] = value
    bias = torch.full((1, 1, 3, 20), -below, dtype=dtype)
    bias[..., 0] = 0
    found = packed_attention(q, torch.ones_like(v), v, bias=bias)
    torch.testing.assert_close(found, dense(q, torch.ones_like(v), v, bias=bias), rtol=1e-4, atol=0)


def test_nothing_is_copied():
    """The gradient has the layout of the packed tensor. Heads are merged without a copy."""
    (qkv,) = packed_tensors("qkv", 2, 50, 50, 4, 16, torch.Generator().manual_seed(0))
    qkv.requires_grad_()
    dout = torch.randn(2, 50, 64)
    names = called(lambda: packed_attention(qkv).flatten(2).backward(dout))
    assert not {"aten::clone", "aten::copy_", "aten::cat", "aten::stack"}.intersection(names), names
    assert qkv.grad.is_contiguous()


def test_other_cases_are_left_to_pytorch():
    generator = torch.Generator().manual_seed(0)
    (qkv,) = packed_tensors("qkv", 1, 9, 9, 2, 16, generator)
    long = packed_tensors("q, kv", 1, 1, MOST_KEYS + 1, 1, 8, generator)
    bias, learned = torch.randn(1, 1, 9, 9), torch.randn(1, 1, 9, 9, requires_grad=True)
    assert on_kernels(lambda: packed_attention(qkv, bias=bias))
    for function in (
        lambda: packed_attention(qkv.bfloat16()),
        lambda: under_a_dispatch_mode(packed_attention, qkv),
        lambda: packed_attention(*long),
        lambda: packed_attention(qkv, bias=learned),
        lambda: packed_attention(qkv, bias=bias > 0),
        lambda: packed_attention(qkv[:0]),
        lambda: packed_attention(qkv.to("meta")),
        lambda: torch.func.vmap(packed_attention)(qkv[None]),
    ):
        assert not on_kernels(function)
    with torch.autocast("cpu", torch.bfloat16):
        assert packed_attention(qkv, bias=bias).dtype == torch.bfloat16
    with dispatch.use_backend("reference"):
        assert not on_kernels(lambda: packed_attention(qkv))
    assert on_kernels(lambda: packed_attention(long[0], long[1][:, 1:]))
    torch.testing.assert_close(packed_attention(*long), dense(*long))
    torch.testing.assert_close(packed_attention(qkv, bias=bias > 0), dense(qkv, bias=torch.log((bias > 0).float())))
    expected = torch.autograd.grad(dense(qkv, bias=learned).square().sum(), learned)
    torch.testing.assert_close(
        torch.autograd.grad(packed_attention(qkv, bias=learned).square().sum(), learned), expected
    )


def test_transforms_and_compiled_code_get_the_same_result():
    (qkv,) = packed_tensors("qkv", 2, 9, 9, 2, 16, torch.Generator().manual_seed(0), torch.float64)

    def loss(x):
        return packed_attention(x).square().sum()

    (expected,) = torch.autograd.grad(loss(qkv.requires_grad_()), qkv)
    torch.testing.assert_close(torch.func.grad(loss)(qkv.detach()), expected)
    compiled = torch.compile(loss, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(torch.autograd.grad(compiled(qkv), qkv)[0], expected)


@pytest.mark.parametrize("form", FORMS)
def test_second_derivatives_and_gradients_of_a_batch(form):
    generator = torch.Generator().manual_seed(0)
    packed = packed_tensors(form, 2, 5, 7, 2, 8, generator, torch.float64)
    M, N = packed[0].shape[1], packed[-1].shape[1]
    bias = torch.randn(1, 1, M, N, generator=generator, dtype=torch.float64)
    bias[..., 0, 1:3] = float("-inf")
    douts = torch.randn(3, 2, M, 2, 8, generator=generator, dtype=torch.float64)
    found = []
    for function in (packed_attention, dense):
        leaves = [tensor.clone().requires_grad_() for tensor in packed]
        out = function(*leaves, bias=bias)
        batch = torch.autograd.grad(out, leaves, douts, is_grads_batched=True, retain_graph=True)
        mapped = torch.func.vmap(lambda dout, out=out, to=leaves: torch.autograd.grad(out, to, dout, retain_graph=True))
        batch += mapped(douts)
        first = torch.autograd.grad(out.pow(3).sum(), leaves, create_graph=True)
        second = torch.autograd.grad(sum(g.square().sum() for g in first), leaves)
        found.append([*batch, *first, *second])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)


def test_a_result_without_a_gradient():
    """A later function may return None in place of a gradient."""

    class NoGradient(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, dout):
            return None

    for form in FORMS:
        packed = packed_tensors(form, 1, 9, 9, 2, 16, torch.Generator().manual_seed(0))
        leaves = [tensor.requires_grad_() for tensor in packed]
        NoGradient.apply(packed_attention(*leaves)).sum().backward()
        assert all(tensor.grad is None for tensor in leaves)


def test_second_derivatives_of_a_row_that_is_left_out_are_zero():
    generator = torch.Generator().manual_seed(0)
    packed = packed_tensors("q, kv", 1, 5, 7, 2, 8, generator, torch.float64)
    bias = torch.randn(1, 1, 5, 7, generator=generator, dtype=torch.float64)
    bias[..., 2, :] = float("-inf")
    found = []
    for kept in ([0, 1, 2, 3, 4], [0, 1, 3, 4]):
        leaves = [packed[0][:, kept].requires_grad_(), packed[1].clone().requires_grad_()]
        out = packed_attention(*leaves, bias=bias[:, :, kept])
        first = torch.autograd.grad(out.pow(3).sum(), leaves, create_graph=True)
        found.append([*first, *torch.autograd.grad(sum(g.square().sum() for g in first), leaves)])
    for dq in found[0][::2]:
        assert not dq[:, 2].any()
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one if one.shape[1] == 7 else one[:, [0, 1, 3, 4]], other)


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ([], "packed must be qkv .* got nothing"),
        ([(2, 9, 3, 16)], r"packed must be qkv \(B, N, 3, H, D\).* got \(2, 9, 3, 16\)"),
        ([(2, 9, 2, 4, 16)], "packed must be qkv"),
        ([(2, 9, 2, 4, 16), (2, 9, 1, 4, 16)], "packed must be qkv"),
        ([(2, 5, 1, 4, 16), (2, 9, 2, 4, 8)], "k and v must have B=2, H=4, D=16"),
        ([(2, 5, 1, 4, 16), (3, 9, 2, 4, 16)], "k and v must have B=2, H=4, D=16"),
        ([(2, 5, 1, 4, 16), (2, 9, 1, 4, 16), (2, 8, 1, 4, 16)], r"one N, got \(2, 9, 1, 4, 16\)"),
    ],
)
def test_wrong_shapes_are_named(shapes, message):
    with pytest.raises(ValueError, match=f"packed_attention: .*{message}"):
        packed_attention(*(torch.randn(shape) for shape in shapes))


def test_other_wrong_arguments_are_named():
    q, kv = torch.randn(2, 5, 1, 4, 16), torch.randn(2, 9, 2, 4, 16)
    for shape in [(2, 4, 9, 5), (2, 3, 5, 9), (3, 1, 5, 9), (5, 9), (9,), (1, 1, 1, 5, 9)]:
        with pytest.raises(ValueError, match=r"bias must be \(2 or 1, 4 or 1, 5, 9\), got"):
            packed_attention(q, kv, bias=torch.zeros(shape))
    with pytest.raises(ValueError, match="dtype and device, torch.float32 on cpu, got torch.float64 on cpu"):
        packed_attention(q, kv.double())
    with pytest.raises(ValueError, match="dtype and device, torch.float32 on cpu, got torch.float32 on meta"):
        packed_attention(q, kv.to("meta"))
    for wrong in ([1.0], None):
        with pytest.raises(ValueError, match="packed must be tensors"):
            packed_attention(wrong)
    with pytest.raises(ValueError, match="bias a tensor or None, got bool"):
        packed_attention(q, kv, bias=True)
    for dtype in (torch.int64, torch.complex64):
        with pytest.raises(ValueError, match=f"packed must be float32, float64, bfloat16 or float16, got {dtype}"):
            packed_attention(q.to(dtype), kv.to(dtype))
    for dtype in (torch.int64, torch.float16, torch.float64):
        with pytest.raises(ValueError, match=f"bias must be bool or have q's dtype torch.float32, got {dtype}"):
            packed_attention(q, kv, bias=torch.zeros(2, 4, 5, 9, dtype=dtype))
    with pytest.raises(ValueError, match="bias must be on q's device cpu, got meta"):  # PyTorch would read no memory
        packed_attention(q, kv, bias=torch.zeros(2, 4, 5, 9, device="meta"))
    with pytest.raises(ValueError, match=r"packed\[1\] must be a dense tensor"):
        packed_attention(q, kv.to_sparse())
    with pytest.raises(ValueError, match="bias must be a dense tensor"):
        packed_attention(q, kv, bias=torch.zeros(2, 4, 5, 9).to_sparse())


def test_a_direct_call_of_the_operators_is_checked():
    ops = torch.ops.stgt_kernels
    q, k = torch.randn(2, 4, 5, 16), torch.randn(2, 4, 9, 16)
    bias = torch.zeros(2, 4, 5, 9)
    for arguments, message in (
        ((q[0], k, k, None), "q must be .B, H, M, D. and k .B, H, N, D., got 3 and 4 dimensions"),
        ((q, k[0], k, None), "q must be .B, H, M, D. and k .B, H, N, D., got 4 and 3 dimensions"),
        ((q.half(), k.half(), k.half(), None), "q must be float32 or float64, got float16"),
        ((q[..., :0], k[..., :0], k[..., :0], None), "1 <= D and 1 <= N, got 0 and 9"),
        ((q, k[:, :, :0], k[:, :, :0], None), "1 <= D and 1 <= N, got 16 and 0"),
        ((q, k[:1], k, None), "k must have size 2 in dimension 0, got 1"),
        ((q, k, q, None), "v must have size 9 in dimension 2, got 5"),
        ((q, k.double(), k, None), "k must be float32, got float64"),
        ((q, k, k.double(), None), "v must be float32, got float64"),
        ((q, k.mT.contiguous().mT, k, None), "k must have a contiguous last dimension"),
        ((q, k, k, bias[:, :, :1]), "bias must have size 5 in dimension 2, got 1"),
        ((q, k, k, bias.double()), "bias must be float32, got float64"),
        ((q, k, k, bias.mT.contiguous().mT), "bias must have a contiguous last dimension"),
    ):
        with pytest.raises(RuntimeError, match=f"dense_attention_fwd: {message}"):
            ops.dense_attention_fwd(*arguments, 1.0)
    out, stats = ops.dense_attention_fwd(q, k, k, None, 1.0)
    for dout, given, kept, tensors, message in (
        (out[0, 0], out, stats, 3, "dout must have 4 dimensions, got 2"),
        (k, out, stats, 3, "dout must have size 5 in dimension 2, got 9"),
        (out.double(), out, stats, 3, "dout must be float32, got float64"),
        (out, k, stats, 3, "out must have size 5 in dimension 2, got 9"),
        (out, out.double(), stats, 3, "out must be float32, got float64"),
        (out, out, stats[..., :1], 3, "stats must have size 2 in dimension 3, got 1"),
        (out, out, stats.double(), 3, "stats must be float32, got float64"),
        *((out, out, stats, tensors, f"tensors must be 1 .* got {tensors}") for tensors in (0, 1, 4)),
    ):
        with pytest.raises(RuntimeError, match=f"dense_attention_bwd: {message}"):
            ops.dense_attention_bwd(dout, q, k, k, None, given, kept, 1.0, tensors)
    given = (out, q, k, k, None, out)
    strided = torch.stack([stats, -stats], -1)[..., 0]
    for found, expected in zip(
        ops.dense_attention_bwd(*given, strided, 1.0, 3), ops.dense_attention_bwd(*given, stats, 1.0, 3), strict=True
    ):
        assert torch.equal(found, expected)


def test_pytorch_is_the_definition():
    """The function that is called in all other cases computes the same."""
    packed = packed_tensors("q, kv", 2, 5, 9, 2, 16, torch.Generator().manual_seed(0), torch.float64)
    q, k, v = (part.transpose(1, 2) for tensor in packed for part in tensor.unbind(2))
    torch.testing.assert_close(F.scaled_dot_product_attention(q, k, v).transpose(1, 2), dense(*packed))
