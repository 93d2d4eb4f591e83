"""Models that ``accelerate`` refuses, and calls that an accelerated model refuses."""

import pytest
import torch
from helpers.released import CrossGraphTransformer
from torch import nn

from stgt_kernels.integrations.released_stgt import accelerate


def build():
    return CrossGraphTransformer(16, 1, 2, 4, 0.5, grid=3).eval()


def test_a_model_without_a_graph_block_is_refused():
    with pytest.raises(ValueError) as error:
        accelerate(nn.Sequential(nn.Linear(2, 2)))
    assert "no module of this Sequential is a graph block of the released STGT, which has build_graph" in str(
        error.value
    )
    assert "graphattn.W_Q" in str(error.value) and "closest" not in str(error.value)
    model = build()
    del model.resblocks[0].graphattn.W_V, model.resblocks[0].sim_th
    with pytest.raises(ValueError, match=r"the closest, resblocks.0 \(Block\), lacks sim_th, graphattn.W_V$"):
        accelerate(model)
    with pytest.raises(ValueError, match="model must be an nn.Module, got str"):
        accelerate("model")
    with pytest.raises(ValueError, match="backend must be one of"):
        accelerate(build(), backend="fast")
    wide = CrossGraphTransformer(256, 1, 1, 2, 0.5, grid=2)
    with pytest.raises(ValueError, match="has heads of width 256, expected at most 128"):
        accelerate(wide)


def test_tokens_that_do_not_divide_into_frames_are_refused():
    model = build()
    with accelerate(model), pytest.raises(ValueError, match="t must divide the number of tokens 10, got t=4"):
        model.resblocks[0].build_graph(torch.zeros(1, 10, 16), 4)


def test_a_named_backend_that_cannot_run_says_so():
    with accelerate(build(), backend="cuda") as handle:
        assert handle.blocks == ("resblocks.0",)
    model = build()
    with accelerate(model, backend="cuda"), pytest.raises(ValueError, match="backend='cuda' cannot run"):
        model(torch.randn(2, 4, 10, 16))


def test_a_mask_without_values_is_refused():
    with torch.device("meta"):
        model = build()
    with pytest.raises(ValueError, match="block 'resblocks.0' .*: g_mask is on the meta device and has no values"):
        accelerate(model)
