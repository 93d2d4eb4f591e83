"""The graph transformer gives the recorded outputs, graphs and gradients of the released one."""

import pytest
import torch
from helpers.settled import exact_graphs, settled

from stgt.config import GraphConfig
from stgt.models.graph_transformer import GraphTransformer
from stgt.weights.names import released_name

FILES = ["video_t3_h05", "video_t4_h01_b2_l2", "video_t5_of_8_h03", "image_t1_h05"]


def build(tensors, meta, **switches):
    """The recorded model. The names in a block's file are the released ones without "graph_cross_model."."""
    config = GraphConfig(
        layers=int(meta["layers"]),
        heads=int(meta["heads"]),
        frames=int(meta["frames_model"]),
        threshold=float(meta["threshold"]),
        **switches,
    )
    model = GraphTransformer(config, int(meta["width"]), grid=16).eval()
    model.load_state_dict({name: tensors["param." + recorded(name)] for name in model.state_dict()})
    return model


def recorded(name):
    return released_name("graph." + name).removeprefix("graph_cross_model.")


@pytest.mark.parametrize("name", FILES)
def test_outputs_and_gradients(name, backend, golden, assert_near):
    tensors, meta = golden(name)
    run, device = backend
    check_outputs_and_gradients(build(tensors, meta, backend=run).to(device), tensors, meta, assert_near)


@pytest.mark.triton_interpret
def test_interpreted_triton_gives_the_same(golden, assert_near):
    """An image alone, because the interpreter would take minutes for a video."""
    tensors, meta = golden("image_t1_h05")
    check_outputs_and_gradients(build(tensors, meta, backend="triton"), tensors, meta, assert_near)


@pytest.mark.parametrize("name", FILES)
def test_dense_attention_gives_the_same(name, golden, assert_near):
    tensors, meta = golden(name)
    check_outputs_and_gradients(build(tensors, meta, attention="dense"), tensors, meta, assert_near)


def test_gradient_checkpointing_gives_the_same(golden, assert_near):
    tensors, meta = golden("video_t4_h01_b2_l2")
    model = build(tensors, meta, checkpointing=True, dropout=0.0, backend="reference").train()
    check_outputs_and_gradients(model, tensors, meta, assert_near)


def check_outputs_and_gradients(model, tensors, meta, assert_near):
    for block, graph in zip(model.blocks, exact_graphs(tensors, meta), strict=True):
        block.build_graph = settled(block.build_graph, graph, block.config.threshold)
    device = next(model.parameters()).device
    x = tensors["input"].clone().to(device).requires_grad_()
    output, _ = model(x)
    assert_near(output, tensors["output"], "output")
    output.backward(tensors["output_grad"].to(device))
    assert_near(x.grad, tensors["input_grad"], "input", gradient=True)
    for name, parameter in model.named_parameters():
        assert_near(parameter.grad, tensors["grad." + recorded(name)], name, gradient=True)


@pytest.mark.parametrize("name", FILES)
def test_the_graph_and_its_attention_are_as_recorded(name, backend, golden, assert_near):
    tensors, meta = golden(name)
    run, device = backend
    block = build(tensors, meta, backend=run).to(device).blocks[0]
    tokens = tensors["block0.local_tokens"].to(device)
    B, N, C = tokens.shape
    graph = block.build_graph(tokens.view(B, N // 256, 256, C))
    degree = tensors["block0.edges_per_token"]
    assert torch.equal(graph.degree().cpu().int(), degree)
    assert_near(graph.weight.sum((3, 4)).flatten(1), tensors["block0.weight_row_sum"], "row sums")
    assert_near(block.graph_attention(tokens, graph), tensors["block0.graph_attention_out"], "graph attention")


def test_statistics_count_edges(golden):
    tensors, meta = golden("video_t3_h05")
    for attention in ("kernels", "dense"):
        _, stats = build(tensors, meta, attention=attention)(tensors["input"])
        torch.testing.assert_close(stats["edges_per_token"], tensors["block0.edges_per_token"].float().mean())
