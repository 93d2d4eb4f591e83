"""The linear probe finds what is there, and nothing more."""

import pytest
import torch

from stgt.finsta.evaluation.probe import motion, probe_figures
from stgt.finsta.graphs.graph import ClipGraphs, Frame, Relation, SeenObject, VideoGraph

KINDS = ("moving", "growing", "still", "turning", "vanishing")


def clip(*frames):
    """Tracks 0 and 1 in frames one second apart, with these relations."""
    things = tuple(SeenObject(track, "a", 1.0, (0.1, 0.1, 0.2, 0.2)) for track in range(2))
    made = tuple(Frame(float(t), things, tuple(Relation(*said) for said in each)) for t, each in enumerate(frames))
    return ClipGraphs("", "", None, VideoGraph(made), "simulated")


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        ([(0, "moving left", None)], "moving"),
        ([(0, "shrinking", None), (0, "above", 1)], "growing"),
        ([(0, "turning", None), (1, "growing", None)], "turning"),
        ([(0, "above", 1), (1, "growing", None)], "still"),
        ([(0, "staying", None)], "still"),
        ([(0, "moving left", None), (0, "growing", None)], None),
        ([(0, "dancing", None)], None),
        ([(0, "moving left", None), (0, "hitting", 1)], None),
    ],
)
def test_the_motion_of_an_object_follows_from_the_relations_of_the_nearest_frame(said, kind):
    assert motion(clip([], said), 0, 0.8) == kind
    assert motion(clip([], said), 7, 0.8) is None
    assert motion(ClipGraphs("", "", None, None, "parser"), 0, 0.0) is None


def test_the_motion_of_an_object_is_unknown_where_something_was_hit_in_another_frame():
    assert motion(clip([(1, "hits", 0)], []), 0, 0.8) is None
    assert motion(clip([(1, "meets", 0)], []), 0, 0.8) == "still"


def objects(informative, count=2000):
    kinds = [KINDS[number % 5] for number in range(count)]
    clips = [number // 10 for number in range(count)]
    states = torch.randn(count, 8, generator=torch.Generator().manual_seed(0))
    if informative:
        states[:, :5] += 6 * torch.eye(5).repeat(count // 5, 1)
    return states, kinds, clips


def test_states_that_tell_the_motion_are_read_and_others_are_at_chance():
    found = probe_figures(*objects(informative=True))
    assert found.keys() == {"motion", "turning", "vanishing"} and min(found.values()) > 98
    found = probe_figures(*objects(informative=False))
    assert found["motion"] == pytest.approx(100 / 3, abs=8) and found["turning"] == pytest.approx(50, abs=8)


def test_a_rare_class_counts_as_much_as_a_frequent_one():
    """The states tell nothing. To answer "still" is right for 90% of the objects, but for one class of three only."""
    states, kinds, _ = objects(informative=False)
    kinds = [{0: "moving", 10: "growing"}.get(number % 20, "still") for number in range(len(kinds))]
    assert probe_figures(states, kinds, [number // 20 for number in range(len(kinds))])["motion"] < 45


def test_a_rare_class_is_found_as_well_as_a_frequent_one():
    """Two classes overlap. Halfway between them, Φ(0.75) = 77.3% of each lie on the right side."""
    states, _, _ = objects(informative=False, count=20_000)
    kinds = ["turning" if number % 20 == 0 else "still" for number in range(len(states))]
    states[::20, 0] += 1.5
    clips = [number // 20 for number in range(len(states))]
    assert probe_figures(states, kinds, clips)["turning"] == pytest.approx(77.3, abs=4)


def test_a_figure_without_all_classes_in_both_halves_is_left_out():
    states, kinds, clips = objects(informative=True)
    absent = [kind == "turning" or (kind == "growing" and clip % 2) for kind, clip in zip(kinds, clips, strict=True)]
    kinds = [None if gone else kind for gone, kind in zip(absent, kinds, strict=True)]
    assert probe_figures(states, kinds, clips).keys() == {"vanishing"}
