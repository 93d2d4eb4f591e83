"""The textual scene graphs of a batch (TSG) as index tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from stgt.finsta.batching.bags import Bags
from stgt.finsta.batching.edges import TYPES, as_edges, neighbourhoods, ragged, with_inverses
from stgt.finsta.batching.words import Labels
from stgt.finsta.graphs.graph import KINDS, TextEdge, TextGraph, TextNode
from stgt_kernels import RaggedGraph

_KIND = {kind: number for number, kind in enumerate(KINDS)}


@dataclass(frozen=True, eq=False)
class Texts:
    """N nodes of B clips' texts, clip after clip; O of them are objects, and Q are predicates."""

    clip: Tensor
    """(N,) int64"""
    kind: Tensor
    """(N,) int64, places in KINDS"""
    label: Tensor
    """(N,) int64, the number of the node's own words"""
    words: Tensor
    """(B, most nodes, L) float32, how much each word of the text belongs to a node; each row adds up to 1 or is 0"""
    slot: Tensor
    """(N,) int64, the place of each node in the first two dimensions of `words`"""
    spoken: Tensor
    """(N, 1) bool, whether the host has a state for at least one word of the node"""
    graph: RaggedGraph
    read_out: Bags
    """(B), the mean of each clip's nodes"""
    object: Tensor
    """(O,) int64, nodes"""
    region: Bags
    """(O), the mean of the nodes around each object"""
    phrase: Bags
    """(O), the mean of the labels of an object and its attributes"""
    predicate: Tensor
    """(Q,) int64, nodes"""
    saying: Tensor
    """(Q,) int64, equal for predicates with the same words and adverbs"""
    subject: Tensor
    """(Q,) int64, places in `object`, or -1"""
    target: Tensor
    """(Q,) int64, the predicate's object as a place in `object`, or -1"""
    targeted: Tensor
    """(Q,) bool, whether the predicate has an object at all, known or not"""
    id: tuple[int, ...]
    """N numbers that nodes have in their own graphs"""
    phrases: tuple[frozenset[int], ...]
    """O sets of labels, as in `phrase`"""


def text_nodes(
    graphs: Sequence[TextGraph | None], offsets: np.ndarray, labels: Labels, hops: int, adverbs: bool
) -> Texts:
    """The index tensors of the texts' graphs, of which some may be missing (None).

    offsets: (B, L, 2), the characters [start, end) of each of the host's words. hops: edges that a node of a region may
    be away from its object. adverbs: whether adverbs have nodes.
    """
    nodes: list[TextNode] = []
    clips, slots, subjects, targets, targeted, sayings = [], [], [], [], [], []
    edges, objects, predicates, phrases = [], [], [], []
    numbers: dict[tuple[str, ...], int] = {}
    kept = [_kept(graph, adverbs) for graph in graphs]
    most = max([len(own) for own, _ in kept], default=0)
    for clip, (own, said) in enumerate(kept):
        first, first_object = len(nodes), len(objects)
        place = {node.id: first + number for number, node in enumerate(own)}
        text = {node.id: node.text for node in own}
        edges += [(place[edge.source], place[edge.target], TYPES[edge.type]) for edge in said]
        own_objects = [node.id for node in own if node.kind == "object"]
        rank = {number: first_object + k for k, number in enumerate(own_objects)}
        for number in own_objects:
            attributes = [e.target for e in said if e.type == "attribute" and e.source == number]
            phrases.append([labels.number(text[one]) for one in (number, *attributes)])
        for number in (node.id for node in own if node.kind == "predicate"):
            predicates.append(place[number])
            subjects.append(rank.get(_argument(said, number, "subject", rank), -1))
            targets.append(rank.get(_argument(said, number, "object", rank), -1))
            targeted.append(any(e.source == number and e.type == "object" for e in said))
            how = sorted(text[e.target] for e in said if e.source == number and e.type == "adverb")
            sayings.append(numbers.setdefault((text[number], *how), len(numbers)))
        objects += [place[number] for number in own_objects]
        nodes += own
        clips += [clip] * len(own)
        slots += range(clip * most, clip * most + len(own))
    clip = np.array(clips, np.int64)
    words, spoken = _words(nodes, clip, np.array(slots, np.int64), offsets, most)
    joined = as_edges(edges)
    row, weight, bag = neighbourhoods(joined, clip, np.array(objects, np.int64), hops)
    return Texts(
        clip=torch.from_numpy(clip),
        kind=_whole([_KIND[node.kind] for node in nodes]),
        label=_whole([labels.number(node.text) for node in nodes]),
        words=words,
        slot=_whole(slots),
        spoken=spoken,
        graph=ragged(with_inverses(joined, len(nodes)), clip),
        read_out=Bags.of(np.arange(len(nodes)), None, clip, len(graphs)),
        object=_whole(objects),
        region=Bags.of(row, weight, bag, len(objects)),
        phrase=Bags.means(phrases),
        predicate=_whole(predicates),
        saying=_whole(sayings),
        subject=_whole(subjects),
        target=_whole(targets),
        targeted=torch.tensor(targeted, dtype=torch.bool),
        id=tuple(node.id for node in nodes),
        phrases=tuple(map(frozenset, phrases)),
    )


def _kept(graph: TextGraph | None, adverbs: bool) -> tuple[list[TextNode], list[TextEdge]]:
    if graph is None:
        return [], []
    nodes = [node for node in graph.nodes if adverbs or node.kind != "adverb"]
    there = {node.id for node in nodes}
    return nodes, [edge for edge in graph.edges if edge.source in there and edge.target in there]


def _argument(edges: list[TextEdge], predicate: int, kind: str, objects: dict[int, int]) -> int | None:
    """The object that a predicate is about. Where this is another predicate, its own subject counts."""
    met = set()
    while predicate not in met:
        met.add(predicate)
        found = [edge.target for edge in edges if edge.source == predicate and edge.type == kind]
        if not found:
            return None
        if found[0] in objects:
            return found[0]
        predicate, kind = found[0], "subject"
    return None


def _words(
    nodes: list[TextNode], clip: np.ndarray, slot: np.ndarray, offsets: np.ndarray, most: int
) -> tuple[Tensor, Tensor]:
    """`Texts.words` and `Texts.spoken`: a word belongs to a node if they share at least one character."""
    span = np.array([node.span for node in nodes], np.int64).reshape(-1, 2)
    own = offsets[clip]
    shared = (own[..., 0] < span[:, 1:]) & (own[..., 1] > span[:, :1]) & (own[..., 1] > own[..., 0])
    count = shared.sum(1)
    words = np.zeros((len(offsets) * most, offsets.shape[1]), np.float32)
    words[slot] = shared / np.maximum(count, 1)[:, None]
    return torch.from_numpy(words).view(len(offsets), most, offsets.shape[1]), torch.from_numpy(count > 0)[:, None]


def _whole(values: list[int]) -> Tensor:
    return torch.tensor(values, dtype=torch.int64)
