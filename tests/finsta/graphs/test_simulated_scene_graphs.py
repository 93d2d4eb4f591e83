"""The scene graphs of simulated clips are those of their scenes."""

import json

import pytest
from helpers.graph_readers import read

from stgt.data.shapes import render_shapes
from stgt.finsta.graphs.graph import Relation
from stgt.finsta.graphs.readers import READERS


def test_simulated_clips(clips, tmp_path):
    scenes = json.loads((clips / "scenes.json").read_text())["clips"]
    found = read("shapes", clips, tmp_path)
    assert [clip.video for clip in found] == [scene["video"] for scene in scenes]
    for clip, scene in zip(found, scenes, strict=True):
        things = {thing["id"]: thing for thing in scene["objects"]}
        assert clip.source == "simulated" and clip.text == scene["caption"]
        nodes = {node.id: node for node in clip.tsg.nodes}
        assert all(node.text == clip.text[slice(*node.span)] for node in nodes.values())
        for truth in clip.grounding:
            thing = things[truth.tracks[0]]
            assert nodes[truth.node].text == thing["shape"]
            said = {nodes[e.target].text for e in clip.tsg.edges if e.type == "attribute" and e.source == truth.node}
            assert said == {thing["colour"], thing["size"]} - {""}
            seen = [o for frame in clip.dsg.frames for o in frame.objects if o.track == thing["id"]]
            assert seen and all(o.label == thing["shape"] and thing["colour"] in o.attributes for o in seen)
        said = {nodes[e.source].text for e in clip.tsg.edges if e.type == "subject"}
        expected = {thing["motion"] for thing in things.values()} - ({"stays"} if scene["relation"] else set())
        assert said == expected | ({scene["relation"]} - {""})
        assert len(clip.dsg.frames) == 6 and clip.dsg.frames[1].t == 0.125


def test_objects_that_are_hidden_are_not_in_a_frame(tmp_path):
    thing = {"id": 0, "colour": "red", "shape": "star", "size": "small", "motion": "vanishes"}
    frame = {"objects": [{"id": 0, "box": [0, 0, 8, 8], "visible": 1.0}], "relations": []}
    gone = {"objects": [{"id": 0, "box": [0, 0, 8, 8], "visible": 0.0}], "relations": []}
    clip = {"video": "a.mp4", "caption": "a small red star vanishes", "relation": "", "objects": [thing]}
    scenes = {"settings": {"size": 16}, "clips": [clip | {"frames": [frame, gone]}]}
    (tmp_path / "scenes.json").write_text(json.dumps(scenes))
    (found,) = read("shapes", tmp_path, tmp_path)
    assert [len(frame.objects) for frame in found.dsg.frames] == [1, 0]
    del clip["relation"]
    (tmp_path / "scenes.json").write_text(json.dumps({"settings": {"size": 16}, "clips": [clip | {"frames": [frame]}]}))
    with pytest.raises(ValueError, match="scenes.json: clip 0 is not in the published format"):
        list(READERS["shapes"](tmp_path, None))


def test_simulated_clips_in_phases_have_the_intervals_of_their_predicates(tmp_path):
    folder = render_shapes(tmp_path / "phases", train=30, test=10, size=32, frames=16, kind="phases")
    scenes = json.loads((folder / "scenes.json").read_text())["clips"]
    kinds = set()
    for clip, scene in zip(read("shapes", folder, tmp_path), scenes, strict=True):
        nodes = {node.id: node for node in clip.tsg.nodes}
        kinds |= {edge.type for edge in clip.tsg.edges}
        truths = [truth for truth in clip.grounding if nodes[truth.node].kind == "predicate"]
        assert len(truths) == len(scene["predicates"])
        for truth, said in zip(truths, scene["predicates"], strict=True):
            assert nodes[truth.node].text == said["name"] and (truth.start, truth.end) == (said["start"], said["end"])
            relation = Relation(said["subject"], said["name"], said["object"])
            for frame in clip.dsg.frames:
                there = {thing.track for thing in frame.objects}.issuperset(truth.tracks)
                assert (relation in frame.relations) == (there and truth.start <= frame.t < truth.end)
    assert kinds == {"subject", "object", "attribute", "adverb", "order", "while"}
