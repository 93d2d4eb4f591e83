"""Graphs that are made worse have the promised share of faults, and stay graphs that can be written and read."""

import numpy as np
import pytest

from stgt.finsta.evaluation.noise import (
    THING,
    boxes_alone,
    break_tracks,
    delete_nodes,
    flip_labels,
    make_noisy,
    move_boxes,
)
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
from stgt.finsta.graphs.lines import read_graphs, write_graphs

LABELS = ("circle", "square", "star")
NODES, FRAMES, TRACKS = 200, 40, 10


@pytest.fixture(scope="module")
def clip():
    """A clip whose graphs are large enough for a share of faults to be near its expectation."""
    text = "a " * NODES
    nodes = tuple(TextNode(n, "predicate" if n % 2 else "object", "a", (2 * n, 2 * n + 1)) for n in range(NODES))
    edges = tuple(TextEdge(n, n - 1, "subject") for n in range(1, NODES, 2))
    frames = tuple(
        Frame(
            float(t),
            tuple(SeenObject(k, LABELS[k % 3], 1.0, (0.4, 0.5, 0.6, 0.55), ("red",)) for k in range(TRACKS)),
            tuple(Relation(k, "above", None if k % 2 else k + 1) for k in range(TRACKS)),
        )
        for t in range(FRAMES)
    )
    truths = tuple(Grounding(n, (n % TRACKS,), 0.0, 2.0) for n in range(NODES))
    return ClipGraphs("a.mp4", text, TextGraph(nodes, edges), VideoGraph(frames), "gold", truths)


def things(clip):
    return [thing for frame in clip.dsg.frames for thing in frame.objects]


def rng():
    return np.random.default_rng(0)


CHANGES = {
    "delete": lambda clip, r: delete_nodes(clip, 0.3, r),
    "move": lambda clip, r: move_boxes(clip, 5.0, r),
    "flip": lambda clip, r: flip_labels(clip, 0.5, LABELS, r),
    "break": lambda clip, r: break_tracks(clip, 0.1, r),
    "noisy": lambda clip, r: make_noisy(clip, LABELS, r),
    "bare": lambda clip, _: boxes_alone(clip),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_changed_graphs_can_be_written_and_the_same_seed_gives_the_same(change, clip, tmp_path):
    changed = change(clip, rng())
    assert changed != clip and changed == change(clip, rng())
    write_graphs(tmp_path / "a.jsonl", [changed])
    assert list(read_graphs(tmp_path / "a.jsonl")) == [changed]


@pytest.mark.parametrize("change", [CHANGES[name] for name in ("delete", "move", "flip", "break", "bare")])
def test_a_clip_without_graphs_of_frames_or_text_is_taken(change):
    text = ClipGraphs("", "a", TextGraph((), ()), None, "parser")
    assert change(text, rng()) == text
    video = ClipGraphs("a.mp4", "", None, VideoGraph((Frame(0.0, ()),)), "detector")
    assert change(video, rng()) == video


def test_a_share_of_the_nodes_is_deleted_with_their_edges_and_truths(clip):
    left = delete_nodes(clip, 0.3, rng())
    assert len(left.tsg.nodes) == pytest.approx(0.7 * NODES, abs=25)
    assert len(left.tsg.edges) == pytest.approx(0.49 * NODES / 2, abs=20)
    assert len(things(left)) == pytest.approx(0.7 * FRAMES * TRACKS, abs=40)
    relations = sum(len(frame.relations) for frame in left.dsg.frames)
    # A relation needs itself and its one or two objects.
    assert relations == pytest.approx(FRAMES * TRACKS * (0.7**2 + 0.7**3) / 2, abs=40)
    assert {truth.node for truth in left.grounding} == {node.id for node in left.tsg.nodes}
    assert delete_nodes(clip, 0.0, rng()) == clip
    nothing = delete_nodes(clip, 1.0, rng())
    assert not nothing.tsg.nodes and not things(nothing) and not nothing.grounding


def test_boxes_move_by_a_part_of_their_size(clip):
    moved = np.array([thing.box for thing in things(move_boxes(clip, 0.1, rng()))])
    errors = moved - np.array([0.4, 0.5, 0.6, 0.55])
    assert errors.std(0) == pytest.approx([0.02, 0.005, 0.02, 0.005], rel=0.15)
    assert abs(errors.mean(0)).max() < 0.004
    assert move_boxes(clip, 0.0, rng()) == clip


def test_a_share_of_the_tracks_has_one_wrong_label(clip):
    flipped = [flip_labels(clip, 0.5, LABELS, np.random.default_rng(seed)) for seed in range(20)]
    wrong = 0
    for one in flipped:
        labels = {}
        for thing in things(one):
            labels.setdefault(thing.track, set()).add(thing.label)
        assert all(len(each) == 1 for each in labels.values())
        wrong += sum(label != {LABELS[track % 3]} for track, label in labels.items())
    assert wrong == pytest.approx(0.5 * 20 * TRACKS, abs=25)
    assert flip_labels(clip, 0.0, LABELS, rng()) == clip
    assert all(thing.label != LABELS[thing.track % 3] for thing in things(flip_labels(clip, 1.0, LABELS, rng())))


def test_broken_tracks_go_on_under_a_new_number(clip):
    broken = break_tracks(clip, 0.1, rng())
    tracks = {thing.track for thing in things(broken)}
    assert len(tracks) - TRACKS == pytest.approx(0.1 * (FRAMES - 1) * TRACKS, abs=18)
    for old, new in zip(clip.dsg.frames, broken.dsg.frames, strict=True):
        places = {thing.track: number for number, thing in enumerate(new.objects)}
        assert len(places) == TRACKS
        assert [places[r.subject] for r in new.relations] == [r.subject for r in old.relations]
    last = {thing.track for thing in broken.dsg.frames[-1].objects}
    assert {track for truth in broken.grounding for track in truth.tracks} == last & set(range(TRACKS))
    assert break_tracks(clip, 0.0, rng()) == clip


def test_boxes_alone_keep_places_and_tracks(clip):
    bare = boxes_alone(clip)
    assert [(t.track, t.box) for t in things(bare)] == [(t.track, t.box) for t in things(clip)]
    assert {(t.label, t.attributes) for t in things(bare)} == {(THING, ())}
    assert not any(frame.relations for frame in bare.dsg.frames) and bare.grounding == clip.grounding


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda clip: delete_nodes(clip, 1.1, rng()), "share is 1.1, expected 0 to 1"),
        (lambda clip: break_tracks(clip, float("nan"), rng()), "share is nan, expected 0 to 1"),
        (lambda clip: move_boxes(clip, -0.1, rng()), "spread is -0.1, expected 0 or a positive number"),
        (lambda clip: flip_labels(clip, 0.5, ["a", "a"], rng()), "expected at least two different ones"),
    ],
)
def test_impossible_faults_are_refused(call, message, clip):
    with pytest.raises(ValueError, match=message):
        call(clip)
