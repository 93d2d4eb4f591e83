"""Models that `accelerate` changed inside of larger models, wrappers, copies, files and compiled code."""

import copy
import io

import pytest
import torch
from helpers.accelerated import (
    WIDTH,
    assert_outputs_same,
    assert_same,
    build,
    clip,
    results,
)
from helpers.cases import same_bits
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

from stgt_kernels import SpatioTemporalGraph
from stgt_kernels.integrations.released_stgt import accelerate


class Parent(nn.Module):
    """A larger model, as BLIP-2 is one: it takes a frozen tower's tokens and has more layers behind the video part."""

    def __init__(self):
        super().__init__()
        self.graph_cross_model = build(layers=2)
        self.ln_vision = nn.LayerNorm(WIDTH).double()

    def forward(self, x):
        return self.ln_vision(self.graph_cross_model(x))


def test_inside_a_larger_model_and_its_state_stays():
    model, x = Parent().eval(), clip()
    expected, names = model(x), list(model.state_dict())
    handle = accelerate(model)
    assert handle.blocks == ("graph_cross_model.resblocks.0", "graph_cross_model.resblocks.1")
    assert_outputs_same(model(x), expected)
    assert list(model.state_dict()) == names and len(list(model.modules())) == len(list(Parent().modules()))
    assert all(a is b for a, b in zip(model.parameters(), list(model.parameters()), strict=True))
    model.load_state_dict(Parent().state_dict())
    handle.undo()
    assert torch.equal(model(x), Parent().eval()(x))


def test_inside_ddp(tmp_path):
    torch.distributed.init_process_group("gloo", f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        model, x = build(), clip()
        expected = results(model, x)
        wrapped = nn.parallel.DistributedDataParallel(model)
        handle = accelerate(wrapped)
        assert handle.blocks == ("module.resblocks.0",)
        actual = results(wrapped, x)
        assert_same({name.removeprefix("module."): value for name, value in actual.items()}, expected)
        del wrapped
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.parametrize("wrap", [checkpoint_wrapper, lambda block: torch.compile(block, backend="eager")])
def test_a_wrapped_block_counts_once(wrap):
    """Wrappers have the attributes of the block inside."""
    model, x = build(), clip()
    expected = results(model, x)
    block = model.resblocks[0]
    model.resblocks[0] = wrap(block)
    (inside,) = (name for name, module in model.named_modules() if module is block)
    with accelerate(model) as handle:
        assert handle.blocks == (inside,)
        actual = results(model, x)
    assert "build_graph" not in vars(block) and "build_graph" not in vars(model.resblocks[0])
    wrapper = inside.removeprefix("resblocks.0").lstrip(".") + "."
    assert_same({name.replace(wrapper, ""): value for name, value in actual.items()}, expected)


def test_a_wrapper_of_the_attention_alone_still_works():
    """Activation checkpointing computes the projections once more in the backward pass."""
    model, x, calls = build(), clip(), []
    expected = results(model, x)
    attention = model.resblocks[0].graphattn
    attention.W_Q.register_forward_hook(lambda module, args, out: calls.append(out))
    model.resblocks[0].graphattn = checkpoint_wrapper(attention)
    with accelerate(model):
        calls.clear()
        actual = results(model, x)
        assert len(calls) == 2
    assert "forward" not in vars(attention)
    assert_same({name.replace("_checkpoint_wrapped_module.", ""): value for name, value in actual.items()}, expected)


def test_hooks_still_run():
    model, seen = build(), []
    model.resblocks[0].graphattn.register_forward_hook(lambda module, args, out: seen.append(out[0].shape))
    with accelerate(model):
        model(clip())
    assert seen == [(2, 36, WIDTH)]


def test_a_copy_is_accelerated_and_its_own():
    """An exponential moving average makes such a copy."""
    model, x = build(), clip()
    with accelerate(model):
        twin = copy.deepcopy(model)
        with torch.no_grad():
            for parameter in twin.parameters():
                parameter.mul_(1.1)
        assert twin.resblocks[0].build_graph.args == (twin.resblocks[0],)
        assert not torch.allclose(twin(x), model(x))
        assert twin.resblocks[0].graphattn.forward.args == (twin.resblocks[0].graphattn,)
    with pytest.raises(ValueError, match=r"accelerated already.* If this model is a copy, it has no undo\(\)"):
        accelerate(twin)


def test_an_accelerated_model_that_was_saved_whole_can_be_loaded():
    model, x = build(), clip()
    with accelerate(model):
        expected = model(x)
        file = io.BytesIO()
        torch.save(model, file)
    loaded = torch.load(io.BytesIO(file.getvalue()), weights_only=False)
    assert same_bits(loaded(x), expected)
    assert isinstance(loaded.resblocks[0].build_graph(x[:, :, 1:].flatten(1, 2), 4), SpatioTemporalGraph)


def test_attention_takes_dense_weights():
    model = build()
    block, x = model.resblocks[0], clip()[:, :, 1:].flatten(1, 2)
    dense = block.build_graph(x, 4)
    expected = block.graphattn(x, graph_mask=dense)[0]
    with accelerate(model):
        out, nothing = block.graphattn(x, dense)
    assert nothing is None
    assert_outputs_same(out, expected)


def test_torch_compile_afterwards():
    model, x = build(), clip()
    expected = model(x)
    with accelerate(model):
        compiled = torch.compile(model.resblocks[0], fullgraph=True, backend="eager")
        y = x + model.pos_2D_embed + model.time_embed[:, None]
        assert_outputs_same(compiled(y), model.resblocks[0](y))
    assert torch.equal(model(x), expected)


def test_undo():
    model, x = build(), clip()
    own = lambda build_graph=model.resblocks[0].build_graph: build_graph  # noqa: E731
    expected = model(x)
    handle = accelerate(model)
    with pytest.raises(ValueError, match=r"block 'resblocks.0' \(Block\) is accelerated already; undo\(\) that first"):
        accelerate(model)
    handle.undo()
    handle.undo()
    assert torch.equal(model(x), expected)
    assert vars(model.resblocks[0]).keys() == vars(build().resblocks[0]).keys()
    assert vars(model.resblocks[0].graphattn).keys() == vars(build().resblocks[0].graphattn).keys()
    # Attributes that were set on the instance before are restored.
    model.resblocks[0].build_graph = own
    with pytest.raises(RuntimeError, match="inside"), accelerate(model):
        raise RuntimeError("inside")
    assert model.resblocks[0].build_graph is own
