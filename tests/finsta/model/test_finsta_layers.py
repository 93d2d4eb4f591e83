"""The layers of Finsta in float64 against their equations, written as plain loops over nodes, edges and frames."""

import dataclasses
import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from helpers.scenes import TINY, batch_of, scene

from stgt.finsta.batching.bags import Bags, rows
from stgt.finsta.batching.edges import TYPES
from stgt.finsta.config import FinstaConfig
from stgt.finsta.hosts.host import Widths
from stgt.finsta.model.memory import Memory
from stgt.finsta.model.motion import MotionLayer
from stgt.finsta.model.nodes import NodeStates, shares
from stgt.finsta.model.transformer import EdgeStates, GraphLayer

CLIPS = [scene(seed, things) for seed, things in enumerate((2, 1, 3))]


def config(**fields):
    return FinstaConfig(**TINY | fields)


def module(kind, settings, seed=0):
    torch.manual_seed(seed)
    return kind(settings).double().eval()


def states(n, d=TINY["width"], seed=1):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def plain_layer(layer, x, edge_states, graph, bias=None):
    """The layer edge by edge. edge_states: (E, d). Returns nodes, and the edges of the edge stream if there is one."""
    heads, (N, d) = layer.heads, x.shape
    D = d // heads
    q, k, v = layer.qkv(x).view(N, 3, heads, D).unbind(1)
    mapped = layer.edge(edge_states).view(-1, heads, D)
    index, found = graph.to_edge_index().T.tolist(), torch.zeros(N, heads, D, dtype=x.dtype)
    stream = torch.zeros(len(index), heads, D, dtype=x.dtype)
    for h in range(heads):
        z = []
        for e, (j, i) in enumerate(index):
            score = q[i, h] @ k[j, h] / math.sqrt(D)
            stream[e, h] = score * mapped[e, h]
            value = score * mapped[e, h].sum()
            if layer.clamp is not None:
                value = value.clamp(-layer.clamp, layer.clamp)
            z.append(value if bias is None else value + bias[e, h])
        for i in range(N):
            mine = [e for e, (_, target) in enumerate(index) if target == i]
            weights = torch.stack([z[e] for e in mine]).softmax(0)
            found[i, h] = sum(weight * v[index[e][0], h] for weight, e in zip(weights, mine, strict=True))

    def feed_forward(part, y):
        return part.norm(y + part.narrow(part.wide(y).relu()))

    x = feed_forward(layer.feed_forward, layer.norm(x + layer.out(found.view(N, d))))
    if hasattr(layer, "edge_out"):
        edges = layer.edge_norm(edge_states + layer.edge_out(stream.view(-1, d)))
        return x, feed_forward(layer.edge_feed_forward, edges)
    return x, edge_states


@pytest.mark.parametrize("clamp", [None, 0.2])
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("biased", [False, True])
def test_graph_layer_is_its_equation(clamp, stream, biased):
    settings = config(clamp=clamp, edge_stream=stream)
    layer, edges = module(partial(GraphLayer, changes_edges=stream), settings), module(EdgeStates, settings)
    graph = batch_of(CLIPS[:2], settings).texts.graph
    x, bias = states(graph.nodes), states(graph.edges, settings.heads, 2) if biased else None
    found, after = layer(x, edges(graph), graph, bias, stream)
    each = edges.types(graph.edge_type.long())
    expected, edges_after = plain_layer(layer, x, each, graph, bias)
    torch.testing.assert_close(found, expected)
    if stream:
        torch.testing.assert_close(after, edges_after)
        assert not torch.equal(after, each)
    else:
        assert after is edges.types.weight


def test_the_clamp_of_the_test_above_limits_scores():
    settings = config(clamp=None)
    layer, edges = module(GraphLayer, settings), module(EdgeStates, settings)
    graph = batch_of(CLIPS[:2], settings).texts.graph
    x = states(graph.nodes)
    free = layer(x, edges(graph), graph)[0]
    layer.clamp = 0.2
    assert (free - layer(x, edges(graph), graph)[0]).abs().max() > 1e-3


def test_a_bias_in_a_graph_with_as_many_edges_as_types_belongs_to_the_edges():
    settings = config()
    layer = module(GraphLayer, settings)
    graph = batch_of([scene(0, 1)], settings).texts.graph
    while graph.edges != len(TYPES):  # self loops are repeated until there are as many edges as types
        more = min(len(TYPES) - graph.edges, graph.nodes)
        index, kind = graph.to_edge_index(), graph.edge_type
        loops = torch.arange(more).expand(2, more)
        graph = type(graph).from_edge_index(
            torch.cat([index, loops], 1),
            graph.nodes,
            edge_type=torch.cat([kind, torch.full((more,), TYPES["self"], dtype=kind.dtype)]),
            types=len(TYPES),
        )
    table, bias = states(len(TYPES)), states(graph.edges, settings.heads, 2)
    x = states(graph.nodes)
    found, _ = layer(x, table, graph, bias)
    torch.testing.assert_close(found, plain_layer(layer, x, table[graph.edge_type.long()], graph, bias)[0])


def test_motion_layer_is_its_equation():
    settings = config()
    layer = module(MotionLayer, settings)
    with torch.no_grad():
        layer.near.copy_(torch.tensor([0.7, -0.4]))
        layer.change.copy_(torch.tensor([3.0, -5.0]))
    space = batch_of(CLIPS, settings).videos.space
    x, types = states(len(space.previous)), states(len(TYPES))
    bias = space.log_near.double() * layer.near + space.change.double() * layer.change
    h, _ = plain_layer(layer.layer, x, types[space.graph.edge_type.long()], space.graph, bias)
    expected = []
    for i, before in enumerate(space.previous.tolist()):
        step = h[i] - h[before]
        moved = torch.cat([space.motion[i].double(), space.stir[i].double() * step, step])
        expected.append(h[i] + layer.motion(moved))
    torch.testing.assert_close(layer(x, types, space), torch.stack(expected))


def test_motion_layer_begins_without_a_bias():
    layer = module(MotionLayer, config())
    assert not layer.near.any() and not layer.change.any()


def plain_memory(memory, frames):
    """The memory frame by frame, for one clip. frames: states (n_t, d) of their nodes. Returns the new ones."""
    heads = memory.heads

    def attention(q, k, v):
        parts = zip(*(part.chunk(heads, dim=-1) for part in (q, k, v)), strict=True)
        return torch.cat([(a @ b.T / math.sqrt(a.shape[-1])).softmax(-1) @ c for a, b, c in parts], dim=-1)

    d = frames[0].shape[1]
    hidden = [F.gelu(memory.node(x)) for x in frames]
    values = memory.keys(hidden[0])[:, d:]
    cells = memory.first((values.mean(0) if len(values) else torch.zeros(d)) + memory.offset)
    result = []
    for x, h in zip(frames, hidden, strict=True):
        k, v = memory.keys(torch.cat([cells, h])).chunk(2, dim=-1)
        result.append(memory.norm(x + memory.out(attention(memory.query(h), k, v))))
        if len(h):
            k, v = memory.keys(h).chunk(2, dim=-1)
            query, candidate, keep = memory.old(cells).chunk(3, dim=-1)
            new_candidate, new_keep = memory.new(attention(query, k, v)).chunk(2, dim=-1)
            candidate, keep = torch.tanh(candidate + new_candidate), torch.sigmoid(keep + new_keep)
            cells = (1 - keep) * candidate + keep * cells
    return result


def test_memory_is_its_equation():
    memory = module(Memory, config())
    with torch.no_grad():  # larger weights than at the beginning, so that the gates and the attention are not flat
        for part in memory.parameters():
            part.mul_(2.0)
    sizes = [[3, 1, 4], [2, 0, 3], [0, 2, 0]]
    most, x, slot, expected = 4, [], [], []
    for b, own in enumerate(sizes):
        frames = [states(n, seed=10 * b + t) for t, n in enumerate(own)]
        slot += [(b * 3 + t) * most + i for t, n in enumerate(own) for i in range(n)]
        x += frames
        expected += plain_memory(memory, frames)
    found = memory(torch.cat(x), torch.tensor(slot), (3, 3, most))
    torch.testing.assert_close(found, torch.cat(expected))


def test_memory_passes_on_what_earlier_frames_show_and_never_later_ones():
    memory = module(Memory, config())
    x, slot = states(6), torch.arange(6)
    before = memory(x, slot, (1, 3, 2))
    changed = x.clone()
    changed[2:4] += 1.0
    change = (memory(changed, slot, (1, 3, 2)) - before).abs().amax(1)
    assert not change[:2].any() and (change[2:] > 1e-6).all()


def test_a_text_node_without_a_state_of_the_host_begins_as_its_label():
    clip = scene(0, 1)
    late = dataclasses.replace(clip.tsg.nodes[1], span=(900, 910))
    nodes = (clip.tsg.nodes[0], late, *clip.tsg.nodes[2:])
    graphs = batch_of([dataclasses.replace(clip, tsg=dataclasses.replace(clip.tsg, nodes=nodes))], config())
    torch.manual_seed(0)
    first = NodeStates(config(), Widths(5, 6, None)).double()
    words, labels = states(len(nodes), 5), states(len(graphs.labels), 5, seed=2)
    text, _ = first(words, states(len(graphs.videos.kind), 6), graphs, labels)
    spoken = words.clone()
    spoken[1] = labels[graphs.texts.label[1]]
    torch.testing.assert_close(text, first.text_norm(first.word(spoken) + first.text_kind(graphs.texts.kind)))


def test_a_box_takes_the_share_of_each_patch_that_lies_in_it():
    box = torch.tensor([[0.0, 0.0, 1.0, 1.0], [0.25, 0.5, 0.75, 1.0], [0.4, 0.1, 0.45, 0.2]], dtype=torch.float64)
    found = shares(box, (2, 4)).view(3, 2, 4)
    torch.testing.assert_close(found[0], torch.full((2, 4), 1 / 8, dtype=torch.float64))
    assert found[1].tolist() == [[0, 0, 0, 0], [0, 0.5, 0.5, 0]]
    assert found[2].tolist() == [[0, 1, 0, 0], [0, 0, 0, 0]]


def test_bags_are_weighted_sums_and_rows_may_be_repeated():
    table = states(5, 3).requires_grad_()
    bags = Bags.means([(0, 2), (), (4, 4, 1)])
    third = (2 * table[4] + table[1]) / 3
    torch.testing.assert_close(bags.sums(table), torch.stack([(table[0] + table[2]) / 2, 0 * table[0], third]))
    assert Bags.means([]).sums(table).shape == (0, 3) and Bags.means([(), ()]).sums(table).shape == (2, 3)
    index = torch.tensor([[0, 0], [3, 0]])
    rows(table, index).sum().backward()
    assert table.grad[:, 0].tolist() == [3, 0, 0, 1, 0]
