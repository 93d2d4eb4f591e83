"""Clips in groups that only motion tells apart."""

import json
from collections import Counter

import numpy as np
import pytest

from stgt.data.annotations import load_captions
from stgt.data.shapes import render_motions
from stgt.data.shapes.motion import GROUP, WAYS, draw_group


def test_a_group_has_the_same_objects_and_never_the_same_motions():
    for seed in range(20):
        group = draw_group(np.random.default_rng(seed), 12)
        assert len(group) == GROUP
        looks = {tuple((thing.colour, thing.shape, thing.size) for thing in scene.objects) for scene, _ in group}
        assert len(looks) == 1 and len(set(*looks)) == 2
        motions = [tuple(thing.motion for thing in scene.objects) for scene, _ in group]
        assert len(set(motions)) == GROUP and set().union(*motions) <= set(WAYS)
        assert all(track.radius.min() == track.radius.max() for _, tracks in group for track in tracks)


def test_each_clip_has_a_caption_that_only_motion_tells_from_others_of_its_group(tmp_path):
    settings = dict(groups=3, seed=2, size=32, frames=4)
    folder = render_motions(tmp_path / "motions", **settings)
    clips = load_captions(folder / "test.json")
    assert [clip.video for clip in clips] == [f"group{n // GROUP:04d}_{n % GROUP}.mp4" for n in range(3 * GROUP)]
    assert sorted(path.name for path in (folder / "videos").iterdir()) == sorted(clip.video for clip in clips)
    others = {"a", "the", "and", "while", *" ".join(WAYS).split()}
    captions = [Counter(clip.captions[0].replace(",", "").split()) for clip in clips]
    for start in range(0, len(captions), GROUP):
        group = captions[start : start + GROUP]
        assert len({frozenset(words.keys() - others) for words in group}) == 1
        assert len({clip.captions[0] for clip in clips[start : start + GROUP]}) == GROUP

    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.rglob("*.*")}
    assert render_motions(folder, **settings) == folder
    assert before == {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.rglob("*.*")}
    again = render_motions(tmp_path / "again", **settings)
    assert all((again / path.relative_to(folder)).read_bytes() == content for path, (_, content) in before.items())
    with pytest.raises(ValueError, match="other simulated clips: groups is 3 there, not 4"):
        render_motions(folder, **settings | {"groups": 4})


def test_a_test_of_no_groups_is_refused(tmp_path):
    with pytest.raises(ValueError, match="groups is 0, expected at least 1"):
        render_motions(tmp_path / "motions", groups=0)


def test_the_settings_are_those_of_the_folder(tmp_path):
    folder = render_motions(tmp_path / "motions", groups=1, size=32, frames=3)
    settings = json.loads((folder / "scenes.json").read_text())["settings"]
    assert settings == {"groups": 1, "seed": 0, "size": 32, "frames": 3}
