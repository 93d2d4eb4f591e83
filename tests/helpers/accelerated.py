"""Models as the authors released them, and comparisons of their results with those of accelerated ones."""

import torch

from helpers.released import CrossGraphTransformer
from stgt_kernels.testing import video_like_tokens

WIDTH, HEADS, GRID = 16, 2, 3
# Numbers are compared in float64. Its rounding, 1e-16 of a term, decides no edge and no maximum. A wrong edge, scale or
# weight would change a result by 1e-3 at least.
TOLERANCE = 1e-11


def build(frames=4, layers=1, *, dropout=0.0, window=1, sim_th=0.5, seed=0):
    torch.manual_seed(seed)
    sizes = dict(grid=GRID, dropout=dropout, window=window)
    return CrossGraphTransformer(WIDTH, layers, HEADS, frames, sim_th, **sizes).eval().double()


def clip(frames=4, batch=2, seed=1):
    """Tokens (B, T, 1+P, C) that have edges."""
    return video_like_tokens(batch, frames, 1 + GRID**2, WIDTH, seed=seed, dtype=torch.float64)


def assert_bits(actual, expected):
    assert all(torch.equal(actual[name], expected[name]) for name in expected)


def results(model, x):
    """The output, and the gradients of input and parameters, of a loss on the output and on the blocks' tokens.

    Of the output, whose maxima of nearly equal tokens hand their gradients to either, the loss sees the last steps.
    """
    inside = getattr(model, "module", model)
    x, tokens = x.detach().requires_grad_(), []
    inside.zero_grad()
    hook = inside.resblocks.register_forward_hook(lambda module, args, out: tokens.append(out) or out.detach())
    out = model(x)
    hook.remove()
    (out.square().sum() + tokens[0].square().sum()).backward()
    return {"out": out.detach(), "x": x.grad} | {n: p.grad for n, p in inside.named_parameters() if p.requires_grad}


def assert_same(actual, expected):
    """Each lies within the tolerance times its largest value, or times 1e-3 where terms cancel, as in a key's bias."""
    for name in expected:
        allowed = TOLERANCE * expected[name].abs().max().clamp(min=1e-3)
        torch.testing.assert_close(
            actual[name], expected[name], rtol=0, atol=allowed.item(), msg=lambda text, n=name: f"{n}: {text}"
        )


def assert_outputs_same(actual, expected):
    assert_same({"out": actual}, {"out": expected})
