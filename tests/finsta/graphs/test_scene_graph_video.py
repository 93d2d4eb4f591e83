"""Tracks, geometric relations and graphs of videos, from detections of any kind."""

import re
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("scipy", reason="needs the extra [finsta]")

from stgt.data.shapes import render_shapes
from stgt.data.video import read_clip
from stgt.finsta.graphs.graph import ClipGraphs, Relation
from stgt.finsta.graphs.lines import read_graphs, write_graphs
from stgt.finsta.graphs.readers.shapes import read_shapes
from stgt.finsta.graphs.video.blobs import find_blobs
from stgt.finsta.graphs.video.build import video_graph
from stgt.finsta.graphs.video.detections import detections, from_tracked
from stgt.finsta.graphs.video.geometry import motions, places
from stgt.finsta.graphs.video.tracker import Tracker, overlap


def at(*centres, label="ball", side=20):
    """Detections of squares with these centres in a frame of 100×100 pixels."""
    boxes = [(x - side / 2, y - side / 2, x + side / 2, y + side / 2) for x, y in centres]
    return detections(boxes, [label] * len(boxes), np.ones(len(boxes)), 100, 100)


def test_boxes_are_cut_at_the_border_and_weak_ones_are_left_out():
    found = detections(
        [[-10, 20, 50, 120], [120, 0, 130, 10], [0, 0, 10, 10]], ["a", "b", "c"], [0.5, 1.0, 0.1], 100, 100, least=0.5
    )
    assert found.labels == ("a",) and found.boxes.tolist() == [[0, 0.2, 0.5, 1]] and found.scores.tolist() == [0.5]
    with pytest.raises(ValueError, match="there are 1 boxes, 2 labels and 1 scores, expected equal numbers"):
        detections([[0, 0, 1, 1]], ["a", "b"], [1], 10, 10)


def test_overlap_is_intersection_over_union():
    boxes = np.array([[0, 0, 2, 2], [1, 0, 3, 2], [5, 5, 6, 6]], float)
    assert overlap(boxes[:1], boxes).tolist() == [[1, pytest.approx(1 / 3), 0]]


def test_objects_keep_their_tracks_although_their_order_changes():
    tracker = Tracker()
    assert tracker.update(at((20, 20), (60, 60))).tolist() == [0, 1]
    assert tracker.update(at((62, 60), (24, 20))).tolist() == [1, 0]
    assert tracker.update(at()).tolist() == []
    assert tracker.update(at((64, 60), (26, 20), (90, 90))).tolist() == [1, 0, 2]


def test_the_best_assignment_is_not_the_greedy_one():
    """The pair with the largest overlap would leave the others without any."""
    tracker = Tracker(least=0.1)
    tracker.update(at((30, 50), (42, 50)))
    assert tracker.update(at((38, 50), (50, 50))).tolist() == [0, 1]
    first, second = overlap(at((30, 50), (42, 50)).boxes, at((38, 50), (50, 50)).boxes)
    assert second[0] > max(first[0], second[1])  # The second old box overlaps the first new one the most.


def test_a_track_has_one_label_and_ends_when_it_is_missed_too_long():
    tracker = Tracker(patience=1)
    tracker.update(at((50, 50)))
    assert tracker.update(at((50, 50), label="cat")).tolist() == [1]
    assert tracker.update(at((50, 50))).tolist() == [0]  # It was missed once.
    for _ in range(2):
        tracker.update(at())
    assert tracker.update(at((50, 50))).tolist() == [2]


@pytest.mark.parametrize("arguments", [{"least": 0}, {"least": 1.1}, {"least": float("nan")}, {"patience": -1}])
def test_impossible_settings_of_the_tracker_are_refused(arguments):
    ((name, value),) = arguments.items()
    with pytest.raises(ValueError, match=f"{name} is {value}, expected"):
        Tracker(**arguments)


@pytest.mark.parametrize(
    ("one", "other", "said"),
    [
        ((0, 0, 0.2, 0.2), (0.3, 0, 0.5, 0.2), {"left of"}),
        ((0.3, 0, 0.5, 0.2), (0, 0.5, 0.2, 0.7), {"right of", "above"}),
        ((0, 0.5, 0.2, 0.7), (0, 0, 0.2, 0.2), {"below"}),
        ((0.1, 0.1, 0.2, 0.2), (0, 0, 0.5, 0.5), {"inside"}),
        ((0, 0, 0.5, 0.5), (0.1, 0.1, 0.2, 0.2), {"around"}),
        ((0, 0, 0.3, 0.3), (0.2, 0.2, 0.5, 0.5), {"touching"}),
        ((0, 0, 0.2, 0.2), (0.2, 0, 0.5, 0.2), {"left of"}),  # boxes that only share a side do not overlap
        ((0.2, 0, 0.5, 0.2), (0, 0, 0.2, 0.2), {"right of"}),
        ((0, 0, 0.2, 0.2), (0, 0.2, 0.2, 0.5), {"above"}),
        ((0, 0.2, 0.2, 0.5), (0, 0, 0.2, 0.2), {"below"}),
    ],
)
def test_places_of_two_boxes(one, other, said):
    found = places(np.array([one, other]), [7, 3])
    assert set(found) == {Relation(7, predicate, 3) for predicate in said}


@pytest.mark.parametrize(
    ("step", "growth", "said"),
    [
        ((-0.1, 0), 0, ["moving left"]), ((0.1, 0.05), 0, ["moving right"]), ((0, -0.1), 0, ["moving up"]),
        ((0.01, 0.1), 0, ["moving down"]), ((0, 0), 0.3, ["growing"]), ((0, 0), -0.3, ["shrinking"]),
        ((0.1, 0), -0.3, ["moving right", "shrinking"]), ((0.02, 0), 0.05, []),
    ],
)  # fmt: skip
def test_motions_of_a_box(step, growth, said):
    times = np.arange(9) / 8
    centre = 0.5 + times[:, None] * step
    half = 0.1 * np.exp(times * growth)[:, None]
    assert motions(times, np.concatenate([centre - half, centre + half], 1)) == [said] * 9
    assert motions(times[:1], np.array([[0, 0, 1, 1.0]])) == [[]]


def test_a_motion_is_said_while_it_happens():
    times = np.arange(17) / 8
    x = 0.2 + 0.4 * np.clip(times - 1, 0, None)
    boxes = np.stack([x, 0 * x, x + 0.1, 0 * x + 0.1], 1)
    found = motions(times, boxes)
    assert found[:7] == [[]] * 7 and found[9:] == [["moving right"]] * 8


def test_sightings_a_quarter_of_a_second_apart_are_measured_whatever_their_times_are_rounded_to():
    boxes = np.array([[0.1, 0.1, 0.2, 0.2], [0.2, 0.1, 0.3, 0.2]])
    starts = np.arange(300) / 100
    assert any((start + 0.25) - start > 0.25 for start in starts)
    assert all(motions(np.array([start, start + 0.25]), boxes) == [["moving right"]] * 2 for start in starts)
    assert motions(np.array([0.3, 0.551]), boxes) == [[], []]


def test_a_graph_has_tracks_relations_and_scores(tmp_path):
    found = [
        detections([[0, 0, 20, 20], [60, 0, 80, 20]], ["cat", "ball"], [0.5, 0.75], 100, 100),
        detections([[70, 0, 90, 20], [0, 0, 20, 20]], ["ball", "cat"], [1.0, 0.5], 100, 100),
    ]
    graph = video_graph([0.0, 0.25], found)
    assert [[(o.track, o.label) for o in frame.objects] for frame in graph.frames] == [
        [(0, "cat"), (1, "ball")], [(1, "ball"), (0, "cat")],
    ]  # fmt: skip
    assert graph.frames[0].relations == (Relation(0, "left of", 1, 0.5), Relation(1, "moving right", None, 0.75))
    assert Relation(1, "right of", 0, 0.5) in graph.frames[1].relations
    clip = ClipGraphs("a.mp4", "", None, graph, "detector")
    write_graphs(tmp_path / "a.jsonl", [clip])
    assert list(read_graphs(tmp_path / "a.jsonl")) == [clip]


def test_results_of_another_tracker_are_taken():
    result = SimpleNamespace(
        # The third lies outside, the fourth has no track, and the fifth is too narrow to have a width after rounding.
        xyxy=np.array([[0, 0, 10, 10], [20, 20, 40, 60], [200, 0, 210, 10], [1, 1, 2, 2], [3, 3, 3.0002, 9]], float),
        confidence=np.linspace(0.9, 0.5, 5), class_id=np.array([0, 1, 0, 0, 1]), tracker_id=np.array([5, 2, 7, -1, 9]),
    )  # fmt: skip
    found, tracks = from_tracked(result, {0: "cat", 1: "ball"}, 100, 100)
    assert found.labels == ("cat", "ball") and tracks.tolist() == [5, 2]
    graph = video_graph([0.0], [found], [tracks])
    assert [thing.track for thing in graph.frames[0].objects] == [5, 2]
    result.confidence[0] = np.nan
    found, tracks = from_tracked(result, {0: "cat", 1: "ball"}, 100, 100)
    assert found.labels == ("ball",) and tracks.tolist() == [2]
    result.tracker_id = None
    with pytest.raises(ValueError, match="tracker_id is None, expected one number per object"):
        from_tracked(result, ["cat", "ball"], 100, 100)


def test_tracks_that_do_not_fit_the_detections_are_refused():
    with pytest.raises(ValueError, match="there are 1 times, 2 lists of detections and 2 of tracks"):
        video_graph([0.0], [at(), at()])
    message = re.escape("frame 0 has 2 objects and the tracks [1, 1], expected another one for each")
    with pytest.raises(ValueError, match=message):
        video_graph([0.0], [at((10, 10), (50, 50))], [np.array([1, 1])])


def test_blobs_find_the_objects_of_simulated_clips(tmp_path):
    """Objects that neither meet nor vanish are found with their colours, shapes and tracks in most clips."""
    folder = render_shapes(tmp_path / "clips", train=30, test=0, frames=12, kind="phases")
    clips = [clip for clip in read_shapes(folder) if not re.search("behind|in front of|hitting|vanishing", clip.text)]
    right = 0
    for clip in clips:
        video = read_clip(folder / "videos" / clip.video, None)
        graph = video_graph(video.times.tolist(), *find_blobs(video.frames))
        looks = [
            sorted({(thing.label, thing.attributes[-1]) for frame in one.frames for thing in frame.objects})
            for one in (graph, clip.dsg)
        ]
        tracks = {thing.track for frame in graph.frames for thing in frame.objects}
        right += looks[0] == looks[1] and len(tracks) == len(looks[1])
        for frame, truth in zip(graph.frames, clip.dsg.frames, strict=True):
            for thing in frame.objects:
                near = [o for o in truth.objects if o.attributes[-1] == thing.attributes[-1]]
                assert not near or max(overlap(np.array([thing.box]), np.array([o.box for o in near]))[0]) > 0.5
    assert right >= 0.8 * len(clips) > 10
