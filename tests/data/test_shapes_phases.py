"""Simulated clips in phases: what their captions say, when it is true, and that the usual clips are as they were."""

import hashlib
import json
from dataclasses import replace

import numpy as np
import pytest

from stgt.data.annotations import load_answers, load_captions, load_questions
from stgt.data.shapes import render_shapes
from stgt.data.shapes.phases import MOVES, RATES, Phase, PhasedObject, PhasedScene, draw_scene, simulate
from stgt.data.shapes.phrases import Style, caption, draw_style, negatives
from stgt.data.shapes.render import FPS
from stgt.data.shapes.scene import DIRECTIONS

SETTINGS = dict(train=40, test=30, seed=3, size=32, frames=16, kind="phases")


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    return render_shapes(tmp_path_factory.mktemp("phases") / "out", **SETTINGS)


@pytest.fixture(scope="module")
def clips(shapes):
    return json.loads((shapes / "scenes.json").read_text())["clips"]


@pytest.fixture(scope="module")
def drawn():
    """Scenes with the courses of their objects over 101 frames."""
    rng = np.random.default_rng(5)
    found = []
    while len(found) < 300:
        scene = draw_scene(rng)
        if tracks := simulate(scene, 101, rng):
            found.append((scene, tracks))
    return found


def test_the_usual_clips_are_as_they_were(tmp_path):
    out = render_shapes(tmp_path / "out", train=20, test=10, size=32, frames=4)
    said = (out / "train.json").read_bytes() + (out / "qa_test.json").read_bytes()
    assert hashlib.sha256(said).hexdigest()[:16] == "166afd6135db79a9"
    scenes = json.loads((out / "scenes.json").read_text())
    assert scenes["settings"] == {"train": 20, "test": 10, "seed": 0, "size": 32, "frames": 4}
    assert list(scenes["clips"][0]) == [
        "video", "caption", "questions", "background", "relation", "objects", "frames",
    ]  # fmt: skip


def test_the_same_arguments_give_the_same_bytes(shapes, tmp_path):
    again = render_shapes(tmp_path / "again", **SETTINGS)
    files = sorted(path.relative_to(shapes) for path in shapes.rglob("*") if path.is_file())
    assert all((shapes / path).read_bytes() == (again / path).read_bytes() for path in files)


def test_a_folder_of_the_other_kind_is_refused(shapes, tmp_path):
    usual = SETTINGS | {"kind": "motions"}
    with pytest.raises(ValueError, match='other simulated clips: kind is "phases" there, not motions'):
        render_shapes(shapes, **usual)
    small = {"train": 1, "test": 1, "size": 32, "frames": 2}
    render_shapes(tmp_path / "usual", **small)
    with pytest.raises(ValueError, match='other simulated clips: kind is "motions" there, not phases'):
        render_shapes(tmp_path / "usual", **small, kind="phases")
    with pytest.raises(ValueError, match="kind is 'phrases', expected one of 'motions', 'phases'"):
        render_shapes(tmp_path / "new", **small, kind="phrases")


def test_each_motion_happens_in_its_phase_and_at_its_speed(drawn):
    time = np.linspace(0, 1, 101)
    seen = set()
    for scene, tracks in drawn:
        for thing, track in zip(scene.objects, tracks, strict=True):
            if scene.relation:
                continue
            change = np.column_stack(
                [np.diff(track.centre, axis=0), np.diff(np.log(track.radius)), np.diff(track.angle)]
            )
            allowed = np.zeros((100, 4), bool)
            for phase in thing.phases:
                whole = (time[:-1] >= phase.start) & (time[1:] <= phase.end)
                some = (time[1:] > phase.start) & (time[:-1] < phase.end)
                seen.add((phase.motion, phase.speed))
                if phase.motion in MOVES:
                    step = DIRECTIONS[phase.motion.removeprefix("moving ")]
                    column = 0 if step[0] else 1
                    rate, limits = change[whole, column] * sum(step) * 100, RATES["moving"][phase.speed]
                elif phase.motion in ("growing", "shrinking"):
                    column, sign = 2, 1 if phase.motion == "growing" else -1
                    rate, limits = change[whole, column] * sign * 100, RATES["growing"][phase.speed]
                elif phase.motion == "turning":
                    column, rate, limits = 3, np.abs(change[whole, 3]) * 100, RATES["turning"][phase.speed]
                else:
                    continue
                allowed[some, column] = True
                assert (rate >= limits[0] - 1e-6).all() and (rate <= limits[1] + 1e-6).all()
            assert np.abs(change[~allowed]).max() < 1e-9  # Nothing happens outside the phases.
    assert len(seen) == 7 * 3 + 2


def test_an_object_that_vanishes_is_gone_after_its_phase(drawn):
    time = np.linspace(0, 1, 101)
    for scene, tracks in drawn:
        for thing, track in zip(scene.objects, tracks, strict=True):
            ends = [phase for phase in thing.phases if phase.motion == "vanishing"]
            if ends:
                assert (track.opacity[time >= ends[0].end] == 0).all() and (
                    track.opacity[time <= ends[0].start] == 1
                ).all()
            else:
                assert (track.opacity == 1).all()


def test_objects_are_inside_and_apart(drawn):
    for scene, tracks in drawn:
        for track in tracks:
            radius = track.radius[:, None]
            assert (track.centre >= radius).all() and (track.centre <= 1 - radius).all()
        if len(tracks) == 2 and not scene.relation:
            distance = np.linalg.norm(tracks[0].centre - tracks[1].centre, axis=1)
            assert (distance > tracks[0].radius + tracks[1].radius).all()


def test_predicates_stand_in_the_caption_with_their_times(clips):
    words = set()
    for clip in clips:
        predicates = clip["predicates"]
        for predicate in predicates:
            start, end = predicate["span"]
            assert clip["caption"][start:end] == predicate["name"]
            assert 0 <= predicate["start"] < predicate["end"] <= 16 / FPS
            if predicate["adverb"]:
                words.add(clip["caption"][slice(*predicate["adverb"])])
            if predicate["after"] is not None:
                assert predicates[predicate["after"]]["end"] <= predicate["start"]
                assert predicates[predicate["after"]]["subject"] == predicate["subject"]
        for thing in clip["objects"]:
            own = [p for p in predicates if p["subject"] == thing["id"] and p["object"] is None]
            said = {(p["name"], p["start"]) for p in own}
            assert clip["relation"] or said == {(phase["motion"], phase["start"]) for phase in thing["phases"]}
    assert words == {"slowly", "quickly"}
    joined = " ".join(clip["caption"] for clip in clips)
    assert all(word in joined for word in (" and then ", " before ", " after ", " while ", " behind ", " hitting "))


def test_meetings_are_true_when_they_are_said_to_be(clips):
    met = [clip for clip in clips if clip["relation"] in ("behind", "in front of")]
    assert met
    for clip in met:
        hidden = clip["relation"] == "in front of"  # Then the second object is hidden, and otherwise the first.
        truth = clip["predicates"][1]
        assert truth["name"] == clip["relation"] and truth["of"] == 0
        for number, frame in enumerate(clip["frames"]):
            if frame["objects"][hidden]["visible"] < 0.9:
                assert truth["start"] <= number / FPS < truth["end"]


def test_captions_of_the_test_split_differ_from_all_others(shapes, clips):
    assert len({clip.captions for clip in load_captions(shapes / "test.json")}) == 30
    answers = load_answers(shapes / "ans2label.json")
    for split in ("train", "test"):
        assert {question.answer for question in load_questions(shapes / f"qa_{split}.json")} <= answers.keys()
    assert "phases" in (shapes / "README.md").read_text()
    for clip in clips:
        assert len({question for question, _ in clip["questions"]}) == len(clip["questions"])


def test_wrong_captions_differ_in_one_thing_and_could_be_true_of_another_scene(drawn):
    rng = np.random.default_rng(1)
    kinds: dict[str, int] = {}
    for scene, tracks in drawn:
        style = draw_style(scene, rng)
        right, _ = caption(scene, style, tracks)
        for kind, wrong in negatives(scene, style, tracks, rng).items():
            kinds[kind] = kinds.get(kind, 0) + 1
            assert wrong != right
            one, other = right.split(), wrong.split()
            if kind in ("attribute", "subject", "order"):
                assert sorted(one) == sorted(other)  # The same words are in another order.
            else:
                assert sum(a != b for a, b in zip(one, other, strict=True)) == 1
            for clause in wrong.split(" while "):
                # No true caption gives a size to what grows, turns a circle, or says that something vanishes first.
                sized = "small" in clause or "large" in clause
                assert not (sized and ("growing" in clause or "shrinking" in clause))
                assert not ("circle" in clause and "turning" in clause)
                assert "vanishing and" not in clause and "vanishing before" not in clause
    assert set(kinds) == {"attribute", "subject", "direction", "order", "adverb"} and min(kinds.values()) > 20


def test_two_objects_that_do_the_same_give_no_caption_that_would_be_true():
    phase = Phase("turning", "", 0.1, 0.8)
    objects = tuple(PhasedObject(colour, "square", "small", (phase,)) for colour in ("red", "blue"))
    style = Style("a", ("and then", "and then"), (0, 1))
    assert negatives(PhasedScene(objects), style, [], np.random.default_rng(0)) == {}
    other = replace(objects[1], size="large")
    found = negatives(PhasedScene((objects[0], other)), style, [], np.random.default_rng(0))
    assert found["attribute"] == "a small blue square is turning while a large red square is turning"
