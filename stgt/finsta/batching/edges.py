"""The types of edges in all three graphs, and the edges that every graph gets: inverse edges and self loops."""

from __future__ import annotations

import numpy as np
import torch

from stgt.finsta.graphs.graph import EDGE_TYPES
from stgt_kernels import RaggedGraph

_SAID = list(EDGE_TYPES)
_MADE = ["self", "next", "previous", "text to video", "video to text", "near"]
TYPES = {name: number for number, name in enumerate([*_SAID, *(f"inverse {name}" for name in _SAID), *_MADE])}
"""{type of an edge: its number}. "next" and "previous" join sightings of a track, and "near" two objects of a frame"""
MOST = 1 << 24
"""The most pairs of nodes that are in memory at a time, unless one graph alone has more"""


def with_inverses(edges: np.ndarray, nodes: int) -> np.ndarray:
    """Edges (3, E) of sources, targets and types of a scene graph, with their inverse edges and with self loops."""
    source, target, kind = edges
    loops = np.arange(nodes)
    return np.concatenate(
        [
            edges,
            np.stack([target, source, kind + len(_SAID)]),
            np.stack([loops, loops, np.full(nodes, TYPES["self"])]),
        ],
        axis=1,
    )


def both_ways(first: np.ndarray, second: np.ndarray, there: str, back: str) -> np.ndarray:
    """Edges (3, 2E) from each first to its second node and back, with the types of both directions."""
    return np.concatenate(
        [
            np.stack([first, second, np.full(len(first), TYPES[there])]),
            np.stack([second, first, np.full(len(first), TYPES[back])]),
        ],
        axis=1,
    )


def ragged(edges: np.ndarray, graph: np.ndarray) -> RaggedGraph:
    """The graph of edges (3, E); graph: (N,) the graph of each node, ascending."""
    index = torch.from_numpy(edges[:2].astype(np.int64))
    kind, batch = torch.from_numpy(edges[2].astype(np.int64)), torch.from_numpy(graph.astype(np.int64))
    return RaggedGraph.from_edge_index(index, len(graph), batch=batch, edge_type=kind, types=len(TYPES))


def as_edges(found: list[tuple[int, int, int]]) -> np.ndarray:
    """Edges (3, E) of a list of (source, target, type)."""
    return np.array(found, np.int64).reshape(-1, 3).T


def neighbourhoods(edges: np.ndarray, graph: np.ndarray, centres: np.ndarray, hops: int) -> tuple[np.ndarray, ...]:
    """The nodes around some centres: rows (M,), their weights (M,), and which centre each row belongs to (M,).

    The weights give the mean over 0..hops of the means over the nodes that are exactly that far away. A distance at
    which there is no node is left out. edges: (3, E) within graphs, taken in both directions; graph: (N,) the graph of
    each node, and centres: (C,) nodes, both ascending.
    """
    graphs = int(graph.max(initial=-1)) + 1
    place, nodes = _places(graph, graphs)
    if graphs > 1 and graphs * nodes**2 > MOST:
        return _in_two_parts(edges, graph, centres, hops, graphs // 2)
    rank, most = _places(graph[centres], graphs)
    joined = np.zeros((graphs, nodes, nodes), np.float32)
    of, one, other = graph[edges[0]], place[edges[0]], place[edges[1]]
    joined[of, one, other] = joined[of, other, one] = 1
    ring = np.zeros((graphs, most, nodes), bool)
    ring[graph[centres], rank, place[centres]] = True
    reached, weight, rings = ring.copy(), ring.astype(np.float64), np.ones((graphs, most, 1))
    for _ in range(hops):
        ring = (ring.astype(np.float32) @ joined > 0) & ~reached
        size = ring.sum(2, keepdims=True)
        reached |= ring
        rings += size > 0
        weight += ring / np.maximum(size, 1)
    number, first = np.zeros((graphs, most), np.int64), np.searchsorted(graph, np.arange(graphs))
    number[graph[centres], rank] = np.arange(len(centres))
    where, centre, row = np.nonzero(reached)
    return first[where] + row, (weight / rings)[where, centre, row], number[where, centre]


def _in_two_parts(
    edges: np.ndarray, graph: np.ndarray, centres: np.ndarray, hops: int, middle: int
) -> tuple[np.ndarray, ...]:
    """The `neighbourhoods` of the graphs before `middle`, and then those of the others.

    All graphs of a part are as large in memory as its largest one, so a large graph should not be among many others.
    """
    node, centre = (int(np.searchsorted(graphs, middle)) for graphs in (graph, graph[centres]))
    first = edges[0] < node
    row, weight, around = neighbourhoods(edges[:, first], graph[:node], centres[:centre], hops)
    moved = edges[:, ~first] - np.array([[node], [node], [0]])
    more = neighbourhoods(moved, graph[node:] - middle, centres[centre:] - node, hops)
    return (
        np.concatenate([row, more[0] + node]),
        np.concatenate([weight, more[1]]),
        np.concatenate([around, more[2] + centre]),
    )


def _places(graph: np.ndarray, graphs: int) -> tuple[np.ndarray, int]:
    """The place of each node in its graph, and the most nodes of a graph. graph: (N,), ascending."""
    count = np.bincount(graph, minlength=graphs)
    return np.arange(len(graph)) - (np.cumsum(count) - count)[graph], int(count.max(initial=0))
