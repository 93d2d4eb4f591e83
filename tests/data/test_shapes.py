import hashlib
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stgt.data.annotations import load_answers, load_captions, load_questions
from stgt.data.shapes import render_shapes
from stgt.data.shapes.render import SHAPE_DISTANCES, render
from stgt.data.shapes.scene import COLOURS, EXTENT, MOVES, SHAPES, Object, Scene, draw_scene, simulate
from stgt.data.video import read_frames

SETTINGS = dict(train=60, test=40, seed=3, size=64, frames=10)


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    return render_shapes(tmp_path_factory.mktemp("shapes") / "out", **SETTINGS)


@pytest.fixture(scope="module")
def scenes(shapes):
    return json.loads((shapes / "scenes.json").read_text())


def feasible(seed):
    """A random scene, the courses of its objects, and its picture on a plain background."""
    rng = np.random.default_rng(seed)
    while True:
        scene = draw_scene(rng)
        if tracks := simulate(scene, 12, rng):
            return scene, tracks, render(scene, tracks, "plain", 64, rng)


def digests(folder):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.rglob("*.*")}


def test_the_same_arguments_give_the_same_bytes(shapes, tmp_path):
    assert digests(shapes) == digests(render_shapes(tmp_path / "again", **SETTINGS))
    other = digests(render_shapes(tmp_path / "other", **SETTINGS | {"seed": 4}))
    assert other.keys() == digests(shapes).keys()
    assert not set(other.values()) & set(digests(shapes).values()) - {digests(shapes)["ans2label.json"]}


def test_existing_clips_are_not_rendered_again(shapes, tmp_path):
    before = {path: path.stat().st_mtime_ns for path in shapes.rglob("*")}
    assert render_shapes(shapes, **SETTINGS) == shapes
    assert before == {path: path.stat().st_mtime_ns for path in shapes.rglob("*")}
    with pytest.raises(ValueError, match="other simulated clips: train is 60 there, not 61"):
        render_shapes(shapes, **SETTINGS | {"train": 61})
    (tmp_path / "precious.txt").touch()
    with pytest.raises(ValueError, match="holds no simulated clips"):
        render_shapes(tmp_path, **SETTINGS)
    assert [path.name for path in tmp_path.iterdir()] == ["precious.txt"]


@pytest.mark.parametrize("name, value", [("train", 0), ("test", -1), ("seed", -1), ("size", 33), ("frames", 1)])
def test_impossible_settings_are_refused(tmp_path, name, value):
    with pytest.raises(ValueError, match=f"{name} is {value}, expected"):
        render_shapes(tmp_path / "out", **SETTINGS | {name: value})
    assert not any(tmp_path.iterdir())


def test_test_scenes_differ_from_each_other_and_from_training(scenes):
    meanings = {"train": [], "test": []}
    for clip in scenes["clips"]:
        objects = tuple(tuple(thing[key] for key in ("colour", "shape", "size", "motion")) for thing in clip["objects"])
        meaning = (clip["relation"], objects if clip["relation"] else tuple(sorted(objects)))
        meanings[clip["video"].split("_")[0]].append(meaning)
    assert (len(meanings["train"]), len(meanings["test"])) == (60, 40)
    assert len(set(meanings["test"])) == 40
    assert not set(meanings["test"]) & set(meanings["train"])


def test_a_large_split_does_not_overlap_either(tmp_path):
    from stgt.data.shapes.write import _draw_scenes

    drawn = _draw_scenes(SETTINGS | {"train": 4000, "test": 300})
    train, test = ({s.meaning for split, _, s, _ in drawn if split == name} for name in ("train", "test"))
    assert len(test) == 300 and not train & test
    things = [thing for _, _, scene, _ in drawn for thing in scene.objects]
    for attribute, values in {"colour": 7, "shape": 5, "size": 3, "motion": 9}.items():
        counts = [sum(getattr(t, attribute) == v for t in things) for v in {getattr(t, attribute) for t in things}]
        assert len(counts) == values and min(counts) > len(things) / values / 3


def test_captions_and_questions_are_in_the_formats_of_the_package(shapes, scenes):
    test = load_captions(shapes / "test.json")
    assert len({clip.captions for clip in test}) == len(test) == 40
    answers = load_answers(shapes / "ans2label.json")
    for split in ("train", "test"):
        questions = load_questions(shapes / f"qa_{split}.json")
        assert {q.answer for q in questions} <= answers.keys()
        assert len({q.question_id for q in questions}) == len(questions)
        for entry in json.loads((shapes / f"{split}.json").read_text()):
            assert entry["simulated"] is True and (shapes / "videos" / entry["video"]).is_file()
    assert scenes["simulated"] is True and "Simulated" in scenes["note"]
    assert "No camera" in (shapes / "README.md").read_text()


def test_captions_name_every_object_with_its_attributes(scenes):
    for clip in scenes["clips"]:
        for thing in clip["objects"]:
            name = f"{thing['size']} {thing['colour']} {thing['shape']}".strip()
            assert name in clip["caption"]
            if thing["motion"] != "stays" or not clip["relation"]:
                assert thing["motion"] in clip["caption"]


def answers_to(question, clip):
    """All answers that fit a question, found only from its words and the objects."""
    things, words = clip["objects"], question.rstrip("?").split()
    named = [t for t in things if t["colour"] in words and t["shape"] in words]
    if question.startswith("how many"):
        return {str(len(things))}
    if question.startswith(("what does the", "what size")):
        return {t["motion" if "do" in words else "size"] for t in named}
    if clip["relation"] and any(verb in words for verb in ("meet", "passes", "hits")):
        if question.startswith("where"):
            return {things[0]["motion"].split()[1]}
        assert named[0] == things[0]
        return {things[1]["shape" if "which" in words else "colour"]}
    asked = "colour" if words[1] == "colour" else "shape"
    fit = [t for t in things if t["motion"] in question or t["shape"] in words or (t["colour"] in words)]
    return {t[asked] for t in fit}


def test_every_question_has_one_answer(scenes):
    kinds = set()
    for clip in scenes["clips"]:
        assert len({question for question, _ in clip["questions"]}) == len(clip["questions"]) == 3
        for question, answer in clip["questions"]:
            assert answers_to(question, clip) == {answer}, question
            kinds.add(" ".join(question.split()[:2]))
    assert kinds >= {"how many", "what does", "what size", "what colour", "what shape", "which shape"}


def test_files_show_what_was_drawn(shapes, scenes):
    """Where an object is fully visible, the decoded file has its colour at its centre."""
    checked = 0
    for clip in scenes["clips"][:20]:
        video = read_frames(shapes / "videos" / clip["video"], None).numpy()
        assert video.shape == (10, 64, 64, 3)
        for frame, graph in zip(video, clip["frames"], strict=True):
            for thing, place in zip(clip["objects"], graph["objects"], strict=True):
                x, y = (int(c) for c in place["centre"])
                if place["visible"] == 1:
                    assert np.abs(frame[y, x].astype(int) - COLOURS[thing["colour"]]).max() < 40
                    checked += 1
    assert checked > 200


@settings(deadline=None)
@given(st.integers(0, 10**6))
def test_objects_are_inside_and_large_enough(seed):
    scene, tracks, picture = feasible(seed)
    for thing, track, boxes in zip(scene.objects, tracks, picture.boxes, strict=True):
        assert (track.centre - track.radius[:, None] > 0).all() and (track.centre + track.radius[:, None] < 1).all()
        widths = boxes[:, 2:] - boxes[:, :2]
        assert widths.min() >= (10 if thing.size else 7)
        center = (boxes[:, 2:] + boxes[:, :2]) / 2
        assert np.abs(center - track.centre * 64).max() < 0.4 * EXTENT * track.radius.max() * 64


@settings(deadline=None)
@given(st.integers(0, 10**6))
def test_motions_are_what_their_names_say(seed):
    scene, tracks, picture = feasible(seed)
    for thing, track, visible in zip(scene.objects, tracks, picture.visible, strict=True):
        shift, growth = track.centre[-1] - track.centre[0], track.radius[-1] / track.radius[0]
        if thing.motion in MOVES:
            axis, sign = {"left": (0, -1), "right": (0, 1), "up": (1, -1), "down": (1, 1)}[thing.motion[6:]]
            assert sign * shift[axis] > 0.1 and abs(shift[1 - axis]) < 1e-9
        elif scene.relation != "hits":
            assert np.abs(shift).max() < 1e-9
        assert (growth > 2, growth < 0.5) == (thing.motion == "grows", thing.motion == "shrinks")
        assert (np.ptp(track.angle) > 2) == (thing.motion == "turns")
        assert (visible[-1] == 0) == (thing.motion == "vanishes")


@settings(deadline=None)
@given(st.integers(0, 10**6))
def test_only_the_relation_behind_hides_an_object(seed):
    scene, _, picture = feasible(seed)
    hidden = picture.visible.min(1) < 0.9
    for number, thing in enumerate(scene.objects):
        expected = {"behind": number == 0, "in front of": number == 1}.get(scene.relation, thing.motion == "vanishes")
        assert hidden[number] == expected
    if scene.relation == "behind":
        assert picture.visible[0].min() < 0.3 and picture.visible[0, [0, -1]].min() > 0.9


def test_a_hit_passes_the_motion_on():
    rng = np.random.default_rng(0)
    scene = Scene((Object("red", "square", "small", "moves left"), Object("blue", "circle", "large", "stays")), "hits")
    for _ in range(20):
        mover, other = simulate(scene, 30, rng)
        moved, pushed = (np.abs(np.diff(t.centre[:, 0])) > 1e-9 for t in (mover, other))
        assert moved[:8].all() and not moved[-8:].any()
        assert pushed[-8:].all() and not pushed[:8].any()
        gap = mover.centre[:, 0] - other.centre[:, 0]
        assert gap.min() == pytest.approx(1.05 * (0.1 + 0.17), abs=0.02)


@pytest.mark.parametrize("shape", SHAPES)
def test_outlines_are_distances(shape):
    """Near the outline, a shape's function grows by one per unit of length, so that anti-aliasing is right."""
    grid = np.linspace(-1.6, 1.6, 1601)
    x, y = np.meshgrid(grid, grid)
    distance = SHAPE_DISTANCES[shape](x, y)
    slope = np.hypot(*np.gradient(distance, grid, grid))[np.abs(distance) < 0.02]
    assert np.median(slope) == pytest.approx(1, abs=1e-3)
    assert (distance <= 0).any(0).sum() * (grid[1] - grid[0]) / 2 < EXTENT + 0.01
