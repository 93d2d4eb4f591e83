"""The kernels give the graphs and the attention that were recorded from the authors' implementation."""

import pytest
import torch
from helpers.cases import each_backend, on
from helpers.golden import recorded
from torch import Tensor

from stgt_kernels import GraphAttention, SpatioTemporalGraph, spatio_temporal_graph, token_similarity
from stgt_kernels.rounding import similarity_error

PROJECTIONS = {"W_Q": "q_proj", "W_K": "k_proj", "W_V": "v_proj", "W_O": "out_proj"}
each_file = pytest.mark.parametrize("name", ["video_t3_h05", "video_t4_h01_b2_l2", "video_t5_of_8_h03", "image_t1_h05"])


def assert_near(actual: Tensor, expected: Tensor) -> None:
    """Fails if a value is off by more than 1e-5 of the largest. The recorded ones differ from float64 by up to 4e-6."""
    error = (actual.cpu() - expected).abs().max().item()
    assert error <= 1e-5 * expected.abs().max().item() + 2e-7


@each_backend
@each_file
def test_graph(name, backend):
    tensors, metadata = recorded(name)
    local, threshold = tensors["block0.local_tokens"], float(metadata["threshold"])
    x = local.unflatten(1, (-1, 256))
    graph = spatio_temporal_graph(on(backend, x), threshold=threshold, backend=backend).to("cpu")
    similarity = token_similarity(x.double(), backend="reference").weight
    in_doubt = ((similarity - threshold).abs() < similarity_error(x.shape[-1], torch.float32)).sum((3, 4)).flatten(1)
    assert in_doubt.sum() <= 4
    differ = (graph.degree() - tensors["block0.edges_per_token"]).abs()
    assert (differ <= in_doubt).all()
    certain = differ == 0
    row_sum = graph.weight.sum((3, 4)).flatten(1)
    assert_near(row_sum[certain], tensors["block0.weight_row_sum"][certain])


@each_backend
@each_file
def test_attention(name, backend):
    tensors, metadata = recorded(name)
    local = tensors["block0.local_tokens"]
    graph = spatio_temporal_graph(
        local.unflatten(1, (-1, 256)), threshold=float(metadata["threshold"]), backend="reference"
    )
    assert torch.equal(graph.degree(), tensors["block0.edges_per_token"].long())
    module = GraphAttention(local.shape[-1], int(metadata["heads"]), backend=backend)
    for theirs, ours in PROJECTIONS.items():
        parameters = {part: tensors[f"param.resblocks.0.graphattn.{theirs}.{part}"] for part in ("weight", "bias")}
        getattr(module, ours).load_state_dict(parameters)
    local, weight = on(backend, local, graph.weight)
    with torch.no_grad():
        out = module.to(local.device)(local, SpatioTemporalGraph(weight))
    assert_near(out, tensors["block0.graph_attention_out"])
