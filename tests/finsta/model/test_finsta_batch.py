"""Batches of scene graphs: nodes, edges, neighbourhoods and Gaussian terms against plain loops over the graphs."""

import dataclasses
import math
import tracemalloc

import numpy as np
import pytest
import torch
from helpers.scenes import FRAMES, batch_of, offsets_of, scene, times_of

from stgt.finsta.batch import GraphBatch
from stgt.finsta.batching import edges as batching_edges
from stgt.finsta.batching.edges import TYPES, neighbourhoods
from stgt.finsta.batching.space import FLOOR
from stgt.finsta.config import FinstaConfig
from stgt.finsta.graphs.graph import KINDS, Frame, Relation, SeenObject, TextEdge, TextGraph, TextNode, VideoGraph

CONFIG = FinstaConfig()
CLIPS = [scene(seed, things) for seed, things in enumerate((2, 1, 3))]


def edges_of(graph):
    """{(source, target, type)}"""
    index, names = graph.to_edge_index(), list(TYPES)
    return {(a, b, names[kind]) for (a, b), kind in zip(index.T.tolist(), graph.edge_type.tolist(), strict=True)}


def gap():
    """A clip whose first thing is not seen in frame 2, and which says something else in each frame."""
    clip = scene(5)
    frames = list(clip.dsg.frames)
    there = tuple(one for one in frames[2].objects if one.track != 10)
    frames[2] = Frame(frames[2].t, there, (Relation(11, "resting", None),))
    return dataclasses.replace(clip, dsg=VideoGraph(tuple(frames)))


def test_a_frame_of_the_host_gets_the_nearest_graph_in_time():
    clip = scene(0, 1)
    times = torch.tensor([[0.0, 0.12, 0.13, 0.9, 99.0]], dtype=torch.float64)
    videos = GraphBatch.of([clip], times, offsets_of([clip]), CONFIG).videos
    boxes = [clip.dsg.frames[number].objects[0].box for number in (0, 0, 1, 4, 5)]
    torch.testing.assert_close(videos.box[videos.sighting], torch.tensor(boxes))


def test_texts_have_the_nodes_and_edges_of_their_graphs():
    batch = batch_of(CLIPS, CONFIG)
    texts, expected, start = batch.texts, set(), 0
    for clip in CLIPS:
        nodes = clip.tsg.nodes
        expected |= {(start + e.source, start + e.target, e.type) for e in clip.tsg.edges}
        expected |= {(start + e.target, start + e.source, f"inverse {e.type}") for e in clip.tsg.edges}
        expected |= {(start + i, start + i, "self") for i in range(len(nodes))}
        own = slice(start, start + len(nodes))
        assert [KINDS[kind] for kind in texts.kind[own]] == [node.kind for node in nodes]
        assert [batch.labels[label] for label in texts.label[own]] == [node.text for node in nodes]
        start += len(nodes)
    assert edges_of(texts.graph) == expected and texts.graph.nodes == start
    assert len(set(batch.labels)) == len(batch.labels)


def test_a_node_of_a_text_has_the_words_that_share_characters_with_it():
    clip = scene(0, 1)
    node = dataclasses.replace(clip.tsg.nodes[0], span=(0, len(clip.text.split(" ")[0]) + 3))
    late = dataclasses.replace(clip.tsg.nodes[1], span=(900, 910))
    clip = dataclasses.replace(clip, tsg=dataclasses.replace(clip.tsg, nodes=(node, late, *clip.tsg.nodes[2:])))
    texts = batch_of([clip], CONFIG).texts
    words = texts.words.flatten(0, 1)[texts.slot]
    assert words[0].tolist() == [0.5, 0.5] + [0] * 22 and texts.spoken[0]
    assert not words[1].any() and not texts.spoken[1]
    assert words[2].nonzero().flatten().tolist() == [3]


def test_words_that_only_touch_a_node_and_words_without_characters_do_not_belong_to_it():
    clip = scene(0, 1)
    start, end = clip.tsg.nodes[1].span
    assert start >= 2
    offsets = torch.tensor([[[0, start], [start, start + 2], [start + 1, start + 1], [start + 2, end], [end, end + 1]]])
    texts = GraphBatch.of([clip], times_of([clip]), offsets, CONFIG).texts
    assert texts.words.flatten(0, 1)[texts.slot][1].tolist() == [0, 0.5, 0, 0.5, 0]


def test_predicates_know_their_arguments_and_which_say_the_same():
    texts = batch_of(CLIPS, CONFIG).texts
    position = {int(node): place for place, node in enumerate(texts.object)}
    start = 0
    for clip in CLIPS:
        for number, node in enumerate(texts.predicate.tolist()):
            if start <= node < start + len(clip.tsg.nodes):
                own = clip.tsg.nodes[node - start]
                about = {e.type: e.target for e in clip.tsg.edges if e.source == own.id}
                assert texts.subject[number] == position[start + about["subject"]]
                assert texts.target[number] == (position[start + about["object"]] if "object" in about else -1)
                assert texts.targeted[number] == ("object" in about)
        start += len(clip.tsg.nodes)
    ids = iter([clip.tsg for clip in CLIPS for _ in clip.tsg.nodes])
    graphs = [graph for graph in ids]
    said = []
    for node in texts.predicate.tolist():
        graph, own = graphs[node], texts.id[node]
        adverbs = {graph.nodes[e.target].text for e in graph.edges if e.source == own and e.type == "adverb"}
        said.append((graph.nodes[own].text, *adverbs))
    same = [[one == other for other in said] for one in said]
    assert (texts.saying[:, None] == texts.saying).tolist() == same


def test_a_predicate_about_another_predicate_is_about_its_subject():
    clip = scene(0, 1)
    kinds = ("object", "predicate", "object", "predicate", "object", "predicate", "predicate")
    nodes = [TextNode(number, kind, f"word{number}", (0, 1)) for number, kind in enumerate(kinds)]
    edges = [(1, 0, "subject"), (1, 3, "object"), (3, 2, "subject"), (3, 4, "object")]
    edges += [(5, 3, "subject"), (5, 6, "object"), (6, 6, "subject")]  # the last one leads nowhere
    graph = TextGraph(tuple(nodes), tuple(TextEdge(*edge) for edge in edges))
    texts = batch_of([dataclasses.replace(clip, tsg=graph)], CONFIG).texts
    assert texts.object.tolist() == [0, 2, 4] and texts.predicate.tolist() == [1, 3, 5, 6]
    assert texts.subject.tolist() == [0, 1, 1, -1]
    assert texts.target.tolist() == [1, 2, -1, -1]
    assert texts.targeted.tolist() == [True, True, True, False]


def test_videos_have_the_nodes_and_edges_of_their_frames_and_edges_in_time():
    clips = [CLIPS[0], gap()]
    batch = batch_of(clips, CONFIG)
    expected, node, last = set(), 0, {}
    for b, clip in enumerate(clips):
        for frame in clip.dsg.frames:
            there = {}
            for one in frame.objects:
                there[one.track], attribute = node, node + 1
                expected |= {(node, attribute, "attribute"), (attribute, node, "inverse attribute")}
                if (b, one.track) in last:
                    before = last[b, one.track]
                    expected |= {(before, node, "next"), (node, before, "previous")}
                last[b, one.track] = node
                assert batch.labels[batch.videos.label[node]] == one.label
                assert batch.labels[batch.videos.label[attribute]] == one.attributes[0]
                node += 2
            for subject, predicate, other, _ in frame.relations:
                expected |= {(node, there[subject], "subject"), (there[subject], node, "inverse subject")}
                if other is not None:
                    expected |= {(node, there[other], "object"), (there[other], node, "inverse object")}
                assert batch.labels[batch.videos.label[node]] == predicate
                node += 1
    expected |= {(i, i, "self") for i in range(node)}
    assert edges_of(batch.videos.graph) == expected and batch.videos.graph.nodes == node
    without = batch_of(clips, dataclasses.replace(CONFIG, temporal_coref=False))
    assert edges_of(without.videos.graph) == {edge for edge in expected if edge[2] not in ("next", "previous")}


def test_the_box_of_a_relation_is_around_both_objects():
    videos = batch_of([CLIPS[0]], CONFIG).videos
    near = next(i for i in range(len(videos.kind)) if KINDS[videos.kind[i]] == "predicate" and i + 1 == videos.most)
    one, other = videos.box[videos.sighting[:2]].tolist()
    around = [min(one[0], other[0]), min(one[1], other[1]), max(one[2], other[2]), max(one[3], other[3])]
    assert videos.box[near].tolist() == around


def test_neighbourhoods_are_means_of_means_by_distance():
    edges = np.array([(0, 1, 0), (0, 2, 0), (3, 0, 0), (3, 4, 0), (5, 6, 0)]).T
    row, weight, centre = neighbourhoods(edges, np.array([0, 0, 0, 0, 0, 2, 2]), np.array([0, 5]), 2)
    found = {(int(c), int(r)): float(w) for r, w, c in zip(row, weight, centre, strict=True)}
    third = 1 / 3
    first = {(0, 0): third, (0, 1): third / 3, (0, 2): third / 3, (0, 3): third / 3, (0, 4): third}
    assert found == pytest.approx(first | {(1, 5): 0.5, (1, 6): 0.5})


def test_one_large_graph_among_many_small_ones_takes_the_memory_of_one(monkeypatch):
    sizes = [3] * 30 + [1000] + [0, 2] * 15
    graph, start = np.repeat(np.arange(len(sizes)), sizes), np.cumsum([0, *sizes])
    chains = [np.arange(first, end - 1) for first, end in zip(start, start[1:], strict=False)]
    one = np.concatenate(chains)
    edges, centres = np.stack([one, one + 1, 0 * one]), np.arange(0, len(graph), 2)
    tracemalloc.start()
    try:
        found = neighbourhoods(edges, graph, centres, 2)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # 4 bytes for a pair of nodes, and 28 for a pair of a node and a centre; half of the nodes are centres.
    assert peak < (4 + 28 / 2) * batching_edges.MOST
    monkeypatch.setattr(batching_edges, "MOST", 10**9)  # all graphs at once
    for ours, expected in zip(found, neighbourhoods(edges, graph, centres, 2), strict=True):
        assert ours.dtype == expected.dtype and np.array_equal(ours, expected)


def test_gaussian_terms_are_those_of_plain_loops():
    clips = [gap(), CLIPS[2]]
    space = batch_of(clips, CONFIG).videos.space
    seen, number = {}, 0
    for b, clip in enumerate(clips):
        for t, frame in enumerate(clip.dsg.frames):
            for one in frame.objects:
                seen[b, t, one.track] = (number, one.box)
                number += 1

    def state(box):
        x0, y0, x1, y1 = box
        return ((x0 + x1) / 2, (y0 + y1) / 2, math.log(x1 - x0), math.log(y1 - y0))

    def near(one, other):
        a, b = state(one), state(other)
        return math.exp(-((a[0] - b[0]) ** 2 + (a[1] - b[1]) ** 2) / (2 * CONFIG.sigma_s**2))

    edges = {}
    for (b, t, track), (i, box) in seen.items():
        edges[i, i, "self"] = (math.log(1 + FLOOR), 0.0)
        earlier = [s for s in range(t) if (b, s, track) in seen]
        motion, stir = 0.0, 0.0
        if earlier:
            j, before = seen[b, earlier[-1], track]
            assert space.previous[i] == j
            gone = sum((x - y) ** 2 for x, y in zip(state(box), state(before), strict=True))
            motion = 1 - math.exp(-gone / (2 * CONFIG.sigma_t**2))
            value = (math.log(near(box, before) + FLOOR), 0.0)
            edges[i, j, "previous"] = edges[j, i, "next"] = value
        else:
            assert space.previous[i] == i
        for (c, s, other), (j, place) in seen.items():
            if (c, s) == (b, t) and other != track:
                change = 0.0
                if (b, t - 1, track) in seen and (b, t - 1, other) in seen:
                    change = abs(near(box, place) - near(seen[b, t - 1, track][1], seen[b, t - 1, other][1]))
                edges[j, i, "near"] = (math.log(near(box, place) + FLOOR), change)
                stir += change
        assert space.motion[i].item() == pytest.approx(motion, rel=1e-5, abs=1e-6)
        assert space.stir[i].item() == pytest.approx(stir, rel=1e-5, abs=1e-6)
    index, names = space.graph.to_edge_index().T.tolist(), list(TYPES)
    kinds = [names[kind] for kind in space.graph.edge_type]
    found = {
        (a, b, kind): (float(log), float(change))
        for (a, b), kind, log, change in zip(index, kinds, space.log_near, space.change, strict=True)
    }
    assert found.keys() == edges.keys()
    for edge, values in edges.items():
        assert found[edge] == pytest.approx(values, rel=1e-5, abs=1e-6)


def test_holistic_graphs_repeat_the_text_in_each_frame_and_join_objects_with_tracks():
    batch = batch_of([CLIPS[0], gap()], CONFIG)
    texts, videos, holistic = batch.texts, batch.videos, batch.holistic
    names = []
    for b in range(2):
        for t in range(FRAMES):
            names += [("text", i, b, t) for i in range(len(texts.clip)) if texts.clip[i] == b]
            names += [("video", i) for i in range(len(videos.frame)) if videos.frame[i] == b * FRAMES + t]
    place = {name: number for number, name in enumerate(names)}
    sources = [name[1] + (len(texts.clip) if name[0] == "video" else 0) for name in names]
    assert holistic.source.tolist() == sources

    expected = {(place["video", a], place["video", b], kind) for a, b, kind in edges_of(videos.graph)}
    for a, b, kind in edges_of(texts.graph):
        clip = int(texts.clip[a])
        expected |= {(place["text", a, clip, t], place["text", b, clip, t], kind) for t in range(FRAMES)}
    joined = []
    for number, thing in enumerate(texts.object.tolist()):
        for node, track in zip(videos.sighting.tolist(), videos.track.tolist(), strict=True):
            clip, t = divmod(int(videos.frame[node]), FRAMES)
            if clip == texts.clip[thing]:
                there, seen = place["text", thing, clip, t], place["video", node]
                joined.append((there, seen, "text to video", number, int(videos.track_place[track])))
                joined.append((seen, there, "video to text", number, int(videos.track_place[track])))
    expected |= {edge[:3] for edge in joined}
    assert edges_of(holistic.graph) == expected
    last = holistic.graph.to_edge_index().T.tolist()[-len(joined) :]
    pair = {edge[:2]: edge[3] * batch.there.shape[1] + edge[4] for edge in joined}
    assert holistic.coreference.tolist() == [pair[tuple(edge)] for edge in last]
    assert [names[node][1] for node in holistic.sighting.tolist()] == videos.sighting.tolist()


def test_pairs_hold_the_nodes_of_both_tracks_and_their_relations_where_both_are_seen():
    clips = [CLIPS[0], gap(), CLIPS[1]]
    batch = batch_of(clips, CONFIG)
    videos, pairs = batch.videos, batch.pairs
    table = [("subject", node) for node in videos.sighting.tolist()]
    table += [("object", node) for node in videos.sighting.tolist()]
    table += [("relation", node) for node in pairs.relation.tolist()]
    bounds = [*pairs.node.start.tolist(), len(pairs.node.row)]
    found = {}
    for number, (clip, s, o) in enumerate(zip(*(x.tolist() for x in (pairs.clip, pairs.subject, pairs.target)))):  # noqa: B905
        for t in range(FRAMES):
            rows = pairs.node.row[bounds[number * FRAMES + t] : bounds[number * FRAMES + t + 1]].tolist()
            found[clip, s, o, t] = {table[row] for row in rows}
            assert pairs.count[number, t] == len(rows)
    expected, node = {}, 0
    for b, clip in enumerate(clips):
        for t, frame in enumerate(clip.dsg.frames):
            there = {one.track - 10: node + 2 * k for k, one in enumerate(frame.objects)}
            node += 2 * len(there)
            for pair in [
                (s, o) for s in range(2) for o in (-1, 0, 1) if s != o and len(clip.dsg.frames[0].objects) > s
            ]:
                if -1 in pair or len(clip.dsg.frames[0].objects) == 2:
                    expected.setdefault((b, *pair, t), set())
                if pair[0] in there and (pair[1] == -1 or pair[1] in there):
                    own = {("subject", there[pair[0]])} | ({("object", there[pair[1]])} if pair[1] >= 0 else set())
                    expected[b, *pair, t] |= own
            for k, relation in enumerate(frame.relations):
                s, o = relation.subject - 10, -1 if relation.object is None else relation.object - 10
                for pair in {(s, o), (o, s)} if o >= 0 else {(s, o)}:
                    expected[b, *pair, t].add(("relation", node + k))
            node += len(frame.relations)
    assert found == expected


def test_the_read_out_of_a_video_is_the_mean_over_frames_of_the_mean_of_their_nodes():
    videos = batch_of([gap(), CLIPS[1]], CONFIG).videos
    table = torch.randn(len(videos.frame), 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    frames = torch.stack([table[videos.frame == f].mean(0) for f in range(2 * FRAMES)])
    torch.testing.assert_close(videos.read_out.sums(table), frames.view(2, FRAMES, 3).mean(1), rtol=1e-6, atol=1e-7)
    assert len({int(n) for n in torch.bincount(videos.frame)}) > 1


def test_frames_without_nodes_do_not_count_in_the_read_out_of_a_video():
    frames = [Frame(f.t, (), ()) if t in (1, 4) else f for t, f in enumerate(CLIPS[0].dsg.frames)]
    videos = batch_of([dataclasses.replace(CLIPS[0], dsg=VideoGraph(tuple(frames)))], CONFIG).videos
    assert videos.frame.unique().tolist() == [0, 2, 3, 5]
    torch.testing.assert_close(videos.read_out.sums(torch.ones(len(videos.frame), 1)), torch.ones(1, 1))


def test_only_the_pairs_that_are_seen_longest_are_kept():
    batch = batch_of([gap()], dataclasses.replace(CONFIG, pairs=1))
    assert batch.pairs.subject.tolist() == [1] and batch.pairs.target.tolist() == [-1]


def test_without_adverbs_and_edges_between_modalities_only_they_are_missing():
    whole, without = batch_of(CLIPS, CONFIG), batch_of(CLIPS, dataclasses.replace(CONFIG, adverbs=False))
    kept = whole.texts.kind != KINDS.index("adverb")
    assert without.texts.kind.tolist() == whole.texts.kind[kept].tolist()
    place = (kept.cumsum(0) - 1).tolist()
    expected = {(place[a], place[b], kind) for a, b, kind in edges_of(whole.texts.graph) if kept[a] and kept[b]}
    assert edges_of(without.texts.graph) == expected
    assert edges_of(without.videos.graph) == edges_of(whole.videos.graph)
    apart = batch_of(CLIPS, dataclasses.replace(CONFIG, crossmodal_coref=False))
    between = ("text to video", "video to text")
    assert edges_of(apart.holistic.graph) == {e for e in edges_of(whole.holistic.graph) if e[2] not in between}
    assert not len(apart.holistic.coreference)


def test_a_track_has_the_phrase_that_it_has_most_often():
    clip = scene(0, 1)
    frames = [
        Frame(f.t, (SeenObject(10, "cat" if k == 0 else "dog", 1.0, f.objects[0].box, ("big", "old")),))
        for k, f in enumerate(clip.dsg.frames)
    ]
    batch = batch_of([dataclasses.replace(clip, dsg=VideoGraph(tuple(frames)))], CONFIG)
    assert {batch.labels[label] for label in batch.videos.phrases[0]} == {"dog", "big", "old"}


def test_times_and_offsets_of_another_shape_are_refused():
    clip = scene(0)
    with pytest.raises(ValueError, match=r"times is \(2, 6\), expected \(B, T\) with B=1 clips and at least 1 frame"):
        GraphBatch.of([clip], times_of([clip, clip]), offsets_of([clip]), CONFIG)
    with pytest.raises(ValueError, match=r"offsets is \(1, 24\), expected \(B, L, 2\) with B=1 clips"):
        GraphBatch.of([clip], times_of([clip]), offsets_of([clip])[..., 0], CONFIG)
