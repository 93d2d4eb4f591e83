"""Where the parts of a picture of scene graphs stand."""

import itertools

import pytest

from stgt.finsta.graphs.graph import (
    ClipGraphs,
    Frame,
    Grounding,
    Relation,
    SeenObject,
    TextEdge,
    TextGraph,
    TextNode,
    VideoGraph,
)
from stgt.finsta.show.aligned import align
from stgt.finsta.show.arcs import place_arcs, place_nodes, text_width
from stgt.finsta.show.colours import track_colours
from stgt.finsta.show.runs import RelationRun, relation_runs


def graph(words, edges=()):
    """A text's graph whose nodes are words such as "object:cat", in this order."""
    nodes, start = [], 0
    for number, word in enumerate(words):
        kind, text = word.split(":")
        nodes.append(TextNode(number, kind, text, (start, start + len(text))))
        start += len(text) + 1
    return TextGraph(tuple(nodes), tuple(TextEdge(*edge) for edge in edges))


def seen(*things, relations=()):
    box = (0.1, 0.1, 0.2, 0.2)
    return [SeenObject(track, label, 1.0, box, tuple(attributes)) for track, label, *attributes in things], relations


def video(*frames):
    return VideoGraph(tuple(Frame(float(t), tuple(things), tuple(said)) for t, (things, said) in enumerate(frames)))


def test_the_words_stand_in_the_order_of_the_text_and_do_not_overlap():
    text = graph(["object:a long word", "attribute:b", "object:c"])
    shuffled = TextGraph(text.nodes[::-1], ())
    placed = place_nodes(shuffled, 1.0, 5.0)
    assert [each.node.id for each in placed] == [0, 1, 2]
    for one, other in itertools.pairwise(placed):
        assert one.x + one.width / 2 < other.x - other.width / 2
    assert placed[0].x - placed[0].width / 2 >= 1.0 and placed[-1].x + placed[-1].width / 2 <= 5.0


def test_words_without_enough_room_go_on_to_the_right():
    placed = place_nodes(graph(["object:much too long"] * 5), 0.0, 1.0)
    assert placed[-1].x > 1.0 and placed[0].x - placed[0].width / 2 == pytest.approx(0)


def test_letters_of_east_asia_are_twice_as_wide():
    assert text_width("日本") == pytest.approx(text_width("abcd"))


def test_an_arc_lies_above_the_shorter_ones_that_it_covers_or_crosses():
    edges = [(1, 4, "order"), (1, 2, "object"), (3, 2, "object"), (4, 2, "object"), (3, 5, "object")]
    words = ["object:a", "predicate:b", "object:c", "predicate:d", "predicate:e", "object:f"]
    arcs = place_arcs(place_nodes(graph(words), 0, 9), graph(words, edges).edges)
    level = {arc.edge[:2]: arc.level for arc in arcs}
    assert level[1, 2] == level[3, 2] == 1
    assert len({level[4, 2], level[3, 5], level[1, 4]}) == 3 and level[1, 4] > max(level[4, 2], level[3, 5]) > 1


def test_the_ends_of_arcs_at_one_word_are_apart_and_inside_its_box():
    words = ["predicate:a", "object:b", "predicate:c", "predicate:d"]
    placed = place_nodes(graph(words), 0, 9)
    arcs = place_arcs(placed, graph(words, [(0, 1, "subject"), (2, 1, "subject"), (3, 1, "subject")]).edges)
    ends = [arc.x1 for arc in arcs]
    assert len(set(ends)) == 3 and ends[0] < placed[1].x < ends[2] < ends[1]
    assert all(abs(end - placed[1].x) < placed[1].width / 2 for end in ends)


def test_relations_of_the_same_frames_are_one_run():
    things = ((0, "a"), (1, "b"))
    both = [Relation(0, "above", 1), Relation(0, "left of", 1)]
    graph = video(
        seen(*things, relations=[*both, Relation(1, "growing", None)]),
        seen(*things, relations=both),
        seen(*things),
        seen(*things, relations=both[:1]),
    )
    assert relation_runs(graph) == [
        RelationRun(1, None, 0, 0, ("growing",)),
        RelationRun(0, 1, 0, 1, ("above", "left of")),
        RelationRun(0, 1, 3, 3, ("above",)),
    ]


def test_every_track_has_a_colour_of_its_own():
    colours = track_colours(range(7, 47))
    assert list(colours) == list(range(7, 47)) and len(set(colours.values())) == 40


def test_objects_of_the_text_are_aligned_by_equal_words_unless_the_truth_is_known():
    text = graph(["attribute:red", "object:ball", "object:dog", "object:cat"], [(1, 0, "attribute")])
    frames = video(seen((4, "ball", "red"), (5, "ball", "blue"), (6, "dog"), (7, "dog", "old")))
    clip = ClipGraphs("a.mp4", "red ball dog cat", text, frames, "gold")
    assert align(clip) == ({1: (4,), 2: (6, 7)}, False)
    known = ClipGraphs("a.mp4", clip.text, text, frames, "gold", (Grounding(1, (5,), 0.0, 1.0),))
    assert align(known) == ({1: (5,)}, True)
    assert align(ClipGraphs("a.mp4", clip.text, text, None, "parser")) == ({}, False)
