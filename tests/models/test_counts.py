"""The model has the numbers of parameters that the paper reports."""

import pytest
import torch

from stgt.config import GraphConfig, ModelConfig, VisionConfig
from stgt.models.graph_transformer import GraphTransformer
from stgt.models.stgt import STGT


def trained(module):
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


@pytest.mark.parametrize("tower, weights", [("EVA01-g-14", 985_894_528), ("ViT-g-14", 985_950_848)])
def test_the_whole_model_with_a_frozen_tower(tower, weights):
    with torch.device("meta"):
        model = STGT(ModelConfig(vision=VisionConfig(tower=tower, layers=39)))
    assert trained(model.graph) == 59_531_648
    assert trained(model) == 246_237_118
    assert sum(p.numel() for p in model.vision.parameters()) == weights


def test_the_cross_frame_baseline():
    # The paper reports 60.4M. One layer of each of X-CLIP's two transformers, with this model's own temporal embedding
    # and projection, has 30 C² + 51 C parameters. Neither the paper nor the release explains the other 0.9M.
    with torch.device("meta"):
        baseline = GraphTransformer(GraphConfig(kind="cross_frame"), width=1408, grid=16)
    assert trained(baseline) == 30 * 1408**2 + 51 * 1408 == 59_545_728


def test_more_depth_only_adds_blocks():
    with torch.device("meta"):
        one, two = (GraphTransformer(GraphConfig(layers=n), width=1408, grid=16) for n in (1, 2))
    assert trained(two) - trained(one) == trained(one.blocks)
