"""`accelerate` refuses blocks that have the release's attributes and compute something else."""

import logging

import pytest
import torch
import torch.nn.functional as F
from helpers.accelerated import assert_outputs_same, assert_same, build, clip, results
from helpers.cases import same_bits
from helpers.released import Block, GraphAttention

from stgt_kernels.integrations import comparison
from stgt_kernels.integrations.released_stgt import accelerate


class Unweighted(Block):
    def build_graph(self, x, t):
        return (super().build_graph(x, t) != 0).to(x.dtype)


class Squared(Block):
    def build_graph(self, x, t):
        return super().build_graph(x, t).square()


class Wider(Block):
    """It makes its own mask, of another window, and has no g_mask."""

    def build_graph(self, x, t):
        unit = F.normalize(x.detach(), dim=-1)
        similarity = unit @ unit.transpose(1, 2)
        frame = torch.arange(x.shape[1]) // (x.shape[1] // t)
        joined = (frame[:, None] - frame).abs() <= 2
        return torch.where(joined & (similarity >= self.sim_th), similarity, 0)


class Inverted(Block):
    """It reads a mask that has the form of the release's the other way round."""

    def build_graph(self, x, t):
        self.g_mask = 1 - self.g_mask
        try:
            return super().build_graph(x, t)
        finally:
            self.g_mask = 1 - self.g_mask


class Differentiable(Block):
    """The release takes the tokens without their gradients, and this does not."""

    def build_graph(self, x, t):
        unit = F.normalize(x, dim=-1)
        similarity = unit @ unit.transpose(1, 2)
        return torch.where((similarity >= self.sim_th) & (self.g_mask != 0), similarity, 0)


class Residual(GraphAttention):
    def forward(self, x, graph_mask):
        return x + super().forward(x, graph_mask)[0], None


class Sharper(GraphAttention):
    def forward(self, x, graph_mask):
        return super().forward(x, 2 * graph_mask)


class Unscaled(GraphAttention):
    def forward(self, x, graph_mask):
        return super().forward(x, self.d_k**0.5 * graph_mask)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (Unweighted, r"build_graph gives \d+ of 1296 weights that are not those of g_mask and sim_th=0.5, such as 1 "),
        (Squared, r"build_graph gives \d+ of 1296 weights that are not those"),
        (Wider, r"between the tokens \d+ and \d+, where 0 was expected"),
        (Inverted, r"build_graph gives \d+ of 1296 weights that are not those"),
        (Residual, "the result of graphattn differs by"),
        (Sharper, "the result of graphattn differs by"),
        (Unscaled, "the result of graphattn differs by"),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_changed_code_is_refused(changed, message, dtype):
    model = build(layers=2).to(dtype)
    block = model.resblocks[1]
    (block if issubclass(changed, Block) else block.graphattn).__class__ = changed
    if changed is Wider:
        del block.g_mask
    names = {module: set(vars(module)) for module in model.modules()}
    with pytest.raises(
        ValueError, match=r"accelerate: block 'resblocks.1' \(\w+\) is not the released one: .*" + message
    ):
        accelerate(model)
    assert {module: set(vars(module)) for module in model.modules()} == names


def test_gradients_pass_through_the_graph_where_they_do_in_the_model_s_own_code():
    model, x = build(layers=2), clip()
    constant = results(model, x)
    model.resblocks[1].__class__ = Differentiable
    expected = results(model, x)
    with accelerate(model):
        assert_same(results(model, x), expected)
    assert not torch.allclose(expected["x"], constant["x"])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("threshold", [-1.0, 0.0, 0.3, 0.9, 1.0])
@pytest.mark.parametrize("frames, window", [(1, 1), (3, 1), (5, 0), (5, 3), (3, 2)])
def test_the_release_itself_is_accepted_without_a_warning(frames, window, threshold, dtype, caplog):
    model = build(frames=frames, window=window, sim_th=threshold, dropout=0.5).to(dtype)
    accelerate(model.train())
    assert not caplog.records


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_large_scores_are_not_taken_for_other_code(dtype, caplog):
    """In half precision, rounding decides which of two large scores is the larger one."""
    model = build(seed=3)
    with torch.no_grad():
        for name in ("W_Q", "W_K"):
            getattr(model.resblocks[0].graphattn, name).weight.mul_(30)
    accelerate(model.to(dtype))
    assert not caplog.records


def test_the_comparison_leaves_no_trace():
    model, x = build(dropout=0.3).train(), clip()
    model.resblocks[0].graphattn.dropout.eval()
    modes = [module.training for module in model.modules()]
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    seen = []
    for module in model.modules():
        module.register_forward_hook(lambda module, inputs, output: seen.append(output))
    accelerate(model).undo()
    assert not seen
    assert same_bits(torch.rand(3), expected)
    assert [module.training for module in model.modules()] == modes
    assert all(parameter.grad is None for parameter in model.parameters())
    model(x)
    assert seen


def test_code_that_cannot_run_alone_is_named_in_the_log(caplog):
    model, x = build(), clip()
    expected = model(x)
    model.resblocks[0].g_mask = None
    with caplog.at_level(logging.WARNING, "stgt_kernels"), accelerate(model):
        assert_outputs_same(model(x), expected)
    (record,) = caplog.records
    assert "block 'resblocks.0' (Block) could not be compared with our kernels: AttributeError" in record.message


def test_a_block_for_very_many_tokens_is_named_in_the_log(caplog, monkeypatch):
    model, x = build(), clip()
    monkeypatch.setattr(comparison, "_MOST_NODES", len(model.resblocks[0].g_mask) - 1)
    expected = model(x)
    with caplog.at_level(logging.WARNING, "stgt_kernels"), accelerate(model):
        assert_outputs_same(model(x), expected)
    assert (
        "block 'resblocks.0' (Block) was not compared with our kernels: its g_mask joins" in caplog.records[0].message
    )


def test_a_model_whose_weights_come_later_can_be_accelerated():
    model, x = build(), clip()
    expected, weights = model(x), model.state_dict()
    for later in (build().to("meta").to_empty(device="cpu"), build().to("meta")):
        with accelerate(later):
            later.load_state_dict(weights, assign=True)
            assert_outputs_same(later(x), expected)


def test_weights_that_are_not_numbers_yet_are_not_taken_for_other_code():
    model, x = build(), clip()
    expected, weights = model(x), {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(torch.nan)
    with accelerate(model):
        model.load_state_dict(weights)
        assert_outputs_same(model(x), expected)
