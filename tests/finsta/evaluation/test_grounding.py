"""Grounding is measured against the truth, on clips whose answers are known."""

import math

import pytest
import torch

from stgt.finsta.evaluation.grounding import (
    PredicateTime,
    changing_frames,
    object_figures,
    object_frames,
    predicate_figures,
    predicate_times,
    temporal_iou,
)
from stgt.finsta.graphs.graph import ClipGraphs, Frame, Grounding, SeenObject, TextGraph, TextNode, VideoGraph
from stgt.finsta.model.output import ClipGrounding, PredicateGrounding

NAN = math.nan
TSG = TextGraph(
    (TextNode(0, "object", "a", (0, 1)), TextNode(1, "object", "b", (2, 3)), TextNode(2, "predicate", "c", (4, 5))), ()
)


def clip(*groundings, boxes=()):
    """A clip whose track 5 has these boxes, one in each second; None where it is not seen."""
    frames = tuple(
        Frame(float(t), () if box is None else (SeenObject(5, "a", 1.0, box),)) for t, box in enumerate(boxes)
    )
    return ClipGraphs("", "a b c", TSG, VideoGraph(frames) if frames else None, "gold", tuple(groundings))


def found(objects=None, predicates=None, tracks=(5, 8, 9)):
    return ClipGrounding(tracks, {k: torch.tensor(v) for k, v in (objects or {}).items()}, predicates or {})


def test_only_frames_in_which_tracks_can_be_mixed_up_count():
    scores = [[0.9, 0.1, NAN, 0.5, 0.9], [0.1, 0.8, 0.7, NAN, -0.5], [NAN, 0.7, 0.6, NAN, -0.9]]
    truth = clip(Grounding(0, (5,), 0, 9), Grounding(2, (5,), 0, 9))
    frames = list(object_frames(truth, found({0: scores, 1: scores})))  # The truth about the second object is unknown.
    assert frames == [(True, 1 / 2), (False, 1 / 3), (True, 1 / 3)]
    figures = object_figures(frames)
    assert figures == {"accuracy": pytest.approx(200 / 3), "chance": pytest.approx(700 / 18), "frames": 3}
    assert object_figures([]) == predicate_figures([]) == {}


def test_an_object_that_is_about_two_tracks_is_found_in_either():
    frames = object_frames(clip(Grounding(1, (8, 9), 0, 9)), found({1: [[0.1], [0.2], [0.3]]}))
    assert list(frames) == [(True, 1 / 3)]


def test_intervals_of_frames_are_compared_in_seconds():
    times = [0.0, 0.5, 1.0, 1.5]
    truth = clip(Grounding(0, (5,), 0, 2), Grounding(2, (5, 8), 0.75, 2.0))
    best = PredicateGrounding((5, 8), 2, 4, 0.5)
    (time,) = predicate_times(truth, found(predicates={2: best}), times)
    assert time == pytest.approx((1.0 / 1.25, 1.25 / 2, 1.25 / 2, True))
    other = PredicateGrounding((8, 5), 0, 1, 0.5)
    (missed,) = predicate_times(truth, found(predicates={2: other}), times)
    assert missed == (0.0, 0.625, 0.625, False)
    assert list(predicate_times(truth, found(), times)) == []
    figures = predicate_figures([time, missed])
    assert (figures["found_iou"], figures["found_R@1"], figures["whole_R@1"]) == pytest.approx((40, 50, 100))
    assert figures["track"] == 50 and figures["predicates"] == 2
    exactly = predicate_figures([PredicateTime(0.5, 0.5, 0.49, True)])
    assert (exactly["found_R@1"], exactly["whole_R@1"], exactly["changing_R@1"]) == (100, 100, 0)


def test_temporal_iou():
    assert temporal_iou((0, 2), (1, 3)) == pytest.approx(1 / 3)
    assert temporal_iou((0, 1), (1, 2)) == 0 and temporal_iou((1, 1), (1, 1)) == 0


def test_the_longest_run_of_frames_in_which_a_box_changes():
    rest, grown = (0.1, 0.1, 0.2, 0.2), (0.05, 0.05, 0.25, 0.25)
    away = [(x, 0.1, x + 0.1, 0.2) for x in (0.3, 0.5, 0.7)]
    moves = [rest, rest, *away, away[-1], away[-1]]
    times = [float(t) for t in range(7)]
    assert changing_frames(clip(boxes=moves), 5, times) == (1, 4)
    assert changing_frames(clip(boxes=[rest, rest, rest, rest, grown]), 5, times[:5]) == (3, 4)
    assert changing_frames(clip(boxes=[rest] * 4), 5, times[:4]) == (0, 4)
    assert changing_frames(clip(boxes=[None, rest, None, rest]), 5, times[:4]) == (0, 4)
    assert changing_frames(clip(), 5, times) == (0, 7)
    half = [(x, 0.25, x + 0.125, 0.5) for x in (0.0, 0.5, 0.75, 0.75)]  # the second step is half of the first one
    assert changing_frames(clip(boxes=half), 5, times[:4]) == (0, 2)
