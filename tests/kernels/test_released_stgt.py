"""The released model, accelerated, computes what it computed, and is itself again afterwards.

It is a stand-in here (released.py), which itself gives the numbers recorded from the release.
"""

import copy
import io

import pytest
import torch
from helpers.accelerated import (
    TOLERANCE,
    assert_bits,
    assert_outputs_same,
    assert_same,
    build,
    clip,
    results,
)
from helpers.cases import KERNELS, device_of, each_kernel
from helpers.golden import recorded
from helpers.settled import exact_graphs, recorded_model, settled

from stgt_kernels import SpatioTemporalGraph
from stgt_kernels.integrations.released_stgt import accelerate


def saved_and_loaded(model):
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


GOLDEN = ["video_t3_h05", "video_t4_h01_b2_l2", "video_t5_of_8_h03", "image_t1_h05"]


@pytest.mark.parametrize("accelerated", [None, *KERNELS, "reference"])
@pytest.mark.parametrize("name", GOLDEN)
def test_recorded_results_of_the_release(name, accelerated):
    """The stand-in gives them with and without our kernels, with them also if its mask has another number of frames."""
    tensors, meta = recorded(name)
    frames, model = int(meta["frames_model"]), recorded_model(tensors, meta)
    device = device_of(accelerated)
    model.to(device)
    x = tensors["input"].to(device).requires_grad_()
    if accelerated is None and x.shape[1] not in (1, frames):
        with pytest.raises(RuntimeError, match="must match the size"):
            model(x)
        return
    if accelerated is not None:
        handle = accelerate(model, backend=accelerated)
        assert handle.blocks == tuple(f"resblocks.{i}" for i in range(len(model.resblocks)))
    for block, graph in zip(model.resblocks, exact_graphs(tensors, meta), strict=True):
        block.build_graph = settled(block.build_graph, graph, block.sim_th)
    out = model(x)
    near(out, tensors["output"], 1e-5)
    out.backward(tensors["output_grad"].to(device))
    near(x.grad, tensors["input_grad"], 5e-5)
    for key, parameter in model.named_parameters():
        if parameter.requires_grad:
            near(parameter.grad, tensors["grad." + key], 5e-5)


def near(actual, expected, tolerance):
    """The recorded numbers differ from float64 by up to 4e-6, and recorded gradients by ten times that."""
    error = (actual.detach().cpu() - expected).abs().max().item()
    assert error <= tolerance * expected.abs().max().item() + 2e-7


@pytest.mark.parametrize("backend", ["cpu", "reference"])  # the others have no float64
@pytest.mark.parametrize(
    "frames, batch, layers, window", [(4, 2, 1, 1), (3, 1, 2, 1), (5, 3, 1, 2), (4, 2, 1, 0), (1, 2, 1, 1)]
)
def test_outputs_and_gradients_are_the_model_s_own(frames, batch, layers, window, backend):
    model, x = build(frames, layers, window=window), clip(frames, batch)
    for mode in (True, False):
        model.train(mode)
        before = results(model, x)
        with accelerate(model, backend=backend):
            assert_same(results(model, x), before)
        assert_bits(results(model, x), before)


def test_the_graph_is_the_same_and_follows_the_threshold():
    model = build()
    block, x = model.resblocks[0], clip()[:, :, 1:].flatten(1, 2)
    expected = {}
    for threshold in (0.1, 0.5, 0.9):
        block.sim_th = threshold
        expected[threshold] = block.build_graph(x, 4)
    accelerate(model)
    for threshold, dense in expected.items():
        block.sim_th = threshold
        graph = block.build_graph(x, 4)
        assert isinstance(graph, SpatioTemporalGraph) and graph.window == 1 and not graph.weight.requires_grad
        torch.testing.assert_close(graph.to_dense(), dense, rtol=0, atol=TOLERANCE)
        assert 0 < graph.density() < 1


def test_clips_of_any_length():
    """The released mask has a fixed number of frames. A model that was built for another gives the expected result."""
    model, x = build(frames=4), clip(frames=7)
    with pytest.raises(RuntimeError, match="must match the size"):
        model(x)
    other = build(frames=7)
    other.load_state_dict(model.state_dict() | {"time_embed": other.time_embed})
    with accelerate(model):
        for frames in (1, 2, 7, 9):
            assert model(clip(frames=frames)).isfinite().all()
        model.time_embed.data = other.time_embed.data
        assert_outputs_same(model(x), other(x))


@pytest.mark.parametrize("frames, window", [(1, 1), (2, 1), (3, 2), (4, 3)])
def test_a_mask_that_joins_all(frames, window):
    """Several windows give a mask that joins all tokens, and the smallest of them is taken."""
    model, x = build(frames=frames, window=window), clip(frames=frames)
    expected = model(x)
    with accelerate(model):
        assert_outputs_same(model(x), expected)
        local = clip(frames=6)[:, :, 1:].flatten(1, 2)
        assert model.resblocks[0].build_graph(local, 6).window == max(window, 1)


def test_a_mask_of_another_dtype_and_no_mask():
    model, x = build(), clip()
    expected = model(x)
    block = model.resblocks[0]
    for mask in (block.g_mask.float(), block.g_mask.bool(), None):
        block.g_mask = mask
        with accelerate(model):
            assert_outputs_same(model(x), expected)


def test_a_mask_that_replaces_another_one_is_used():
    model, x, window = build(), clip(), 2
    other = build(window=window).resblocks[0].g_mask
    with accelerate(model):
        before = model(x)
        model.resblocks[0].g_mask = other
        after = model(x)
    assert_outputs_same(after, model(x))
    assert not torch.allclose(before, after)


@pytest.mark.parametrize("copied", [lambda model: model, copy.deepcopy, saved_and_loaded])
def test_a_mask_that_is_changed_in_place_is_used(copied):
    """Loading a state dict writes into a mask that is a buffer."""
    model, other, x = build(), build(window=2), clip()
    for block in (model.resblocks[0], other.resblocks[0]):
        mask = block.g_mask
        del block.g_mask
        block.register_buffer("g_mask", mask)
    expected, own = other(x), model(x)
    accelerate(model)
    assert_outputs_same(model(x), own)
    model.load_state_dict(other.state_dict())
    assert_outputs_same(copied(model)(x), expected)
    assert_outputs_same(model(x), expected)


@pytest.mark.parametrize(
    "mask", [torch.ones(36, 35), torch.ones(36), "none", torch.eye(36).flip(0), torch.ones(36, 36).tril()]
)
def test_a_mask_of_another_kind_is_refused(mask):
    model = build()
    model.resblocks[0].g_mask = mask
    with pytest.raises(ValueError, match=r"accelerate: block 'resblocks.0' \(Block\): g_mask"):
        accelerate(model)
    assert "build_graph" not in vars(model.resblocks[0])


@each_kernel
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_and_half_precision(dtype, backend):
    """The mean error of the output is at most twice that of the model's own, plus rounding."""
    device = device_of(backend)
    model, x = build(), clip()
    exact = model(x).detach().to(device)
    model, x = model.float().to(device), x.float().to(device)
    half = copy.deepcopy(model).to(dtype)
    graph_dtype = []

    def error(out):
        return (out - exact).norm() / exact.norm()

    def autocast():
        with torch.autocast(device, dtype):
            return model(x)

    with torch.no_grad():
        own, own_half = error(autocast()), error(half(x.to(dtype)))
    rounding = 4 * torch.finfo(dtype).eps
    with accelerate(model, backend=backend), accelerate(half, backend=backend):
        for accelerated in (model, half):
            accelerated.resblocks[0].graphattn.register_forward_pre_hook(
                lambda module, args, kwargs: graph_dtype.append(kwargs["graph_mask"].weight.dtype), with_kwargs=True
            )
        out = autocast()
        out.float().square().sum().backward()
        assert error(out) <= 2 * own + rounding
        assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)
        out = half(x.to(dtype))
        assert out.dtype == dtype and error(out) <= 2 * own_half + rounding
    assert graph_dtype == [torch.float16] * 2


def test_dropout_follows_the_module_s_own():
    model, x = build(dropout=0.4), clip()
    certain = model(x)
    with accelerate(model):
        assert_outputs_same(model(x), certain)
        model.train()
        assert not torch.equal(model(x), model(x))
        torch.manual_seed(3)
        first = model(x)
        torch.manual_seed(3)
        assert torch.equal(model(x), first)
        model.resblocks[0].graphattn.dropout.eval()
        assert_outputs_same(model(x), certain)
        model.train()
        model.resblocks[0].graphattn.dropout.p = 0.0
        assert_outputs_same(model(x), certain)


def test_dropout_has_the_model_s_own_mean_and_spread():
    """Over many draws, the output of graph attention has the mean and spread that the released dropout gives it."""
    model, p = build(dropout=0.3).train(), 0.3
    attention, x = model.resblocks[0].graphattn, clip()[:, :, 1:].flatten(1, 2)
    dense = model.resblocks[0].build_graph(x, 4)

    def draws(graph):
        values = torch.stack([attention(x, graph_mask=graph)[0] for _ in range(400)])
        return values.mean(0), values.std(0)

    with torch.no_grad():
        own = draws(dense)
        with accelerate(model):
            ours = draws(model.resblocks[0].build_graph(x, 4))
        attention.eval()
        exact = attention(x, graph_mask=dense)[0]
    assert attention.dropout.p == p
    error = 5 * own[1] / 20  # the mean of 400 draws
    assert ((ours[0] - exact).abs() <= error + 1e-9).all() and ((own[0] - exact).abs() <= error + 1e-9).all()
    assert ((ours[1] / own[1]).mean() - 1).abs() < 0.02


def test_gradient_checkpointing_draws_the_same_mask_again():
    model, x = build(dropout=0.3).train(), clip()
    with accelerate(model):
        gradients = []
        for checkpointed in (False, True):
            torch.manual_seed(5)
            y = x.clone().requires_grad_()
            block = model.resblocks[0]
            out = torch.utils.checkpoint.checkpoint(block, y, use_reentrant=False) if checkpointed else block(y)
            out.square().sum().backward()
            gradients.append(y.grad)
        assert torch.equal(*gradients)


def test_a_token_without_edges_gives_no_nan():
    model, x = build(sim_th=1.0), clip()
    x[:, 1, 3] = 0
    model.resblocks[0].proj_fc.bias.data.zero_()
    model.pos_2D_embed.data.zero_()
    model.time_embed.data.zero_()
    assert model(x).isnan().any()
    with accelerate(model):
        values = results(model, x)
    assert all(value.isfinite().all() for value in values.values())
