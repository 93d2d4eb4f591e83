"""The readers of published annotations, on small files in each published format."""

import copy
import dataclasses
import json
import pickle

import numpy as np
import pytest
from helpers.clips import grey, write_video
from helpers.graph_readers import read
from PIL import Image

from stgt.data.errors import VideoError
from stgt.finsta.graphs.graph import Relation
from stgt.finsta.graphs.lines import graphs_from
from stgt.finsta.graphs.readers import READERS

VIDRD = {
    "video_id": "ILSVRC2015_train_00005003", "frame_count": 3, "fps": 2, "width": 200, "height": 100,
    "subject/objects": [{"tid": 0, "category": "bicycle"}, {"tid": 5, "category": "giant_panda"}],
    "trajectories": [
        [{"tid": 0, "bbox": {"xmin": 20, "ymin": 10, "xmax": 100, "ymax": 120}, "generated": 0}],
        [
            {"tid": 0, "bbox": {"xmin": 20, "ymin": 10, "xmax": 100, "ymax": 90}, "generated": 1},
            {"tid": 5, "bbox": {"xmin": 0, "ymin": 0, "xmax": 50, "ymax": 50}, "generated": 0},
        ],
        [],
    ],
    "relation_instances": [
        {"subject_tid": 5, "object_tid": 0, "predicate": "move_left", "begin_fid": 0, "end_fid": 2},
        {"subject_tid": 0, "object_tid": 5, "predicate": "next_to", "begin_fid": 0, "end_fid": 1},
    ],
}  # fmt: skip


def boxes(frame):
    return {thing.label: (thing.track, thing.box) for thing in frame.objects}


@pytest.fixture
def charades(tmp_path):
    """A folder of videos with 8 frames per second and 32×64 pixels."""
    (tmp_path / "videos").mkdir()
    frames = [np.repeat(frame, 2, axis=0) for frame in grey(8)]
    write_video(tmp_path / "videos" / "001YG.mp4", frames)
    return tmp_path / "videos"


def test_vidvrd(tmp_path):
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "a.json").write_text(json.dumps(VIDRD))
    (clip,) = read("vidvrd", tmp_path, tmp_path)
    assert (clip.video, clip.text, clip.tsg, clip.source) == ("ILSVRC2015_train_00005003.mp4", "", None, "gold")
    first, second, third = clip.dsg.frames
    assert [frame.t for frame in clip.dsg.frames] == [0, 0.5, 1]
    assert boxes(first) == {"bicycle": (0, (0.1, 0.1, 0.5, 1.0))}  # The box ends at the border of the frame.
    assert boxes(second)["giant panda"] == (5, (0.0, 0.0, 0.25, 0.5))
    # The end of a relation is exclusive, and both objects have to be there.
    assert (first.relations, second.relations) == ((), (Relation(5, "move left", 0),))
    assert third.objects == ()


def test_vidor_has_paths_of_videos(tmp_path):
    more = {"version": "VERSION 1.0", "video_hash": "x", "video_path": "0004/11566980553.mp4"}
    (tmp_path / "11566980553.json").write_text(json.dumps(VIDRD | more))
    (clip,) = read("vidor", tmp_path / "11566980553.json", tmp_path)
    assert clip.video == "0004/11566980553.mp4"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fps": 0}, "'fps', 'width', 'height' are 0, 200, 100, expected more than 0"),
        ({"trajectories": [[{"tid": 9, "bbox": VIDRD["trajectories"][0][0]["bbox"]}]]}, r"\[0\]\[0\]: 'tid' is 9, exp"),
        ({"trajectories": [[{"tid": 0, "bbox": {"xmin": 0}}]]}, r"trajectories\[0\]\[0\]: bbox: there is no 'ymin'"),
    ],
)
def test_a_fault_in_vidvrd_is_named(change, message, tmp_path):
    (tmp_path / "a.json").write_text(json.dumps(VIDRD | change))
    with pytest.raises(ValueError, match=rf"a\.json: .*{message}"):
        list(READERS["vidvrd"](tmp_path / "a.json", None))


def test_pvsg(tmp_path):
    folder = tmp_path / "vidor" / "masks" / "0001_4164158586"
    folder.mkdir(parents=True)
    for number in range(3):
        mask = np.zeros((10, 20), np.uint8)
        mask[2:7, 5:10] = 1
        mask[5:, :4] = 2 if number else 0
        Image.fromarray(mask).save(folder / f"{number:04}.png")
    video = {
        "video_id": "0001_4164158586",
        "meta": {"height": 10, "width": 20, "fps": 5, "num_frames": 3},
        "objects": [
            {"object_id": 1, "category": "adult", "is_thing": True},
            {"object_id": 2, "category": "floor", "is_thing": False},
        ],
        "relations": [[1, 2, "standing on", [[0, 1]]]],
    }
    whole = {
        "objects": {"thing": ["adult"], "stuff": ["floor"]},
        "relations": ["standing on"],
        "split": {"vidor": {"train": ["0001_4164158586"], "val": []}},
        "data": [video],
    }
    (tmp_path / "pvsg.json").write_text(json.dumps(whole))
    (clip,) = read("pvsg", tmp_path, tmp_path)
    assert clip.video == "vidor/videos/0001_4164158586.mp4"
    assert [frame.t for frame in clip.dsg.frames] == [0, 0.2, 0.4]
    assert boxes(clip.dsg.frames[1]) == {"adult": (1, (0.25, 0.2, 0.5, 0.7)), "floor": (2, (0.0, 0.5, 0.2, 1.0))}
    # The last frame of a span belongs to it, and the floor is not in the first frame.
    assert [len(frame.relations) for frame in clip.dsg.frames] == [0, 1, 0]
    video["relations"] = [[1, 2, "standing on", [0, 1]]]
    (tmp_path / "pvsg.json").write_text(json.dumps(whole))
    with pytest.raises(
        ValueError, match=r"data\[0\]\.relations\[0\]: it is \[1, 2, \"standing on\", \[0, 1\]\], expec"
    ):
        list(READERS["pvsg"](tmp_path, None))


def action_genome(folder, key="001YG.mp4/000005.png", box=(8.0, 4.0, 4.0, 8.0)):
    objects = [
        {
            "class": "cup/glass/bottle", "bbox": box, "attention_relationship": ["looking_at"],
            "spatial_relationship": ["in_front_of"], "contacting_relationship": ["holding", "touching"],
            "visible": True, "metadata": {"tag": key, "set": "train"},
        },
        {
            "class": "table", "bbox": None, "attention_relationship": None, "spatial_relationship": None,
            "contacting_relationship": None, "visible": False, "metadata": {"tag": key, "set": "train"},
        },
    ]  # fmt: skip
    persons = {"bbox": np.array([[0, 0, 16, 64]], np.float32), "bbox_score": np.float64(0.9), "bbox_size": (32, 64)}
    for protocol, (name, value) in enumerate({"object_bbox_and_relationship": objects, "person_bbox": persons}.items()):
        (folder / f"{name}.pkl").write_bytes(pickle.dumps({key: value}, protocol=2 + protocol))


def test_action_genome(tmp_path, charades):
    action_genome(tmp_path)
    (clip,) = read("action-genome", tmp_path, tmp_path, charades)
    (frame,) = clip.dsg.frames
    assert (clip.video, frame.t) == ("001YG.mp4", 0.5)  # Frame 5 is the fifth one, at 8 frames per second.
    assert boxes(frame) == {
        "person": (0, (0.0, 0.0, 0.5, 1.0)),
        "cup/glass/bottle": (1, (0.25, 0.0625, 0.375, 0.1875)),
    }
    assert set(frame.relations) == {
        Relation(0, "looking at", 1), Relation(0, "holding", 1), Relation(0, "touching", 1),
        Relation(1, "in front of", 0),
    }  # fmt: skip
    with pytest.raises(ValueError, match="the rate of the frames of 001YG.mp4 is not in it, expected the folder"):
        list(READERS["action-genome"](tmp_path, None))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"key": "001YG.mp4"}, "a key is '001YG.mp4', expected VIDEO/FRAME"),
        ({"key": "001YG.mp4/000000.png"}, "a key is '001YG.mp4/000000.png', expected VIDEO/FRAME with frames from 1"),
        ({"key": "001YG.mp4/" + "9" * 5000}, "a key is '001YG.mp4/9"),
        ({"box": (1, 2)}, "the entry '001YG.mp4/000005.png' is not in the published format"),
    ],
    ids=["no frame", "frame 0", "a number without end", "a short box"],
)
def test_a_fault_in_action_genome_is_named(arguments, message, tmp_path, charades):
    action_genome(tmp_path, **arguments)
    with pytest.raises(ValueError, match=f"object_bbox_and_relationship.pkl: {message}"):
        list(READERS["action-genome"](tmp_path, charades))


def pvsg_folder(folder):
    """pvsg.json with a video of one frame."""
    video = {
        "video_id": "v", "meta": {"fps": 5}, "objects": [{"object_id": 1, "category": "adult"}],
        "relations": [[1, 1, "on", [[0, 1]]]],
    }  # fmt: skip
    (folder / "vidor" / "masks" / "v").mkdir(parents=True)
    Image.fromarray(np.eye(4, dtype=np.uint8)).save(folder / "vidor" / "masks" / "v" / "0000.png")
    return {"split": {"vidor": {"train": ["v"]}}, "data": [video]}


def test_a_mask_that_is_cut_short_is_named(tmp_path):
    (tmp_path / "pvsg.json").write_text(json.dumps(pvsg_folder(tmp_path)))
    mask = tmp_path / "vidor" / "masks" / "v" / "0000.png"
    mask.write_bytes(mask.read_bytes()[:40])
    with pytest.raises(ValueError, match="0000.png: it cannot be read as a picture .*, expected a mask"):
        list(READERS["pvsg"](tmp_path, None))


def places(value, place=()):
    """The places of all values inside a JSON value."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in items:
        yield (*place, key)
        yield from places(part, (*place, key))


@pytest.mark.parametrize("name", ["vidvrd", "pvsg", "star", "shapes"])
def test_a_value_of_any_other_type_raises_nothing_but_an_error_that_names_the_file(name, tmp_path, charades):
    if name == "star":
        file, source = (made := star(tmp_path)), made
        whole = json.loads(file.read_text())
    elif name == "shapes":
        thing = {"id": 0, "colour": "red", "shape": "star", "size": "small", "motion": "vanishes"}
        frame = {"objects": [{"id": 0, "box": [0, 0, 8, 8], "visible": 1.0}], "relations": []}
        clip = {"video": "a.mp4", "caption": "a small red star vanishes", "relation": "", "objects": [thing]}
        whole = {"settings": {"size": 16}, "clips": [clip | {"frames": [frame]}]}
        file, source = tmp_path / "scenes.json", tmp_path
    else:
        whole = VIDRD if name == "vidvrd" else pvsg_folder(tmp_path)
        file, source = tmp_path / ("a.json" if name == "vidvrd" else "pvsg.json"), tmp_path
    faults = 0
    for place in places(whole):
        for value in (None, "x", -1, [], {}, [None]):
            changed = part = copy.deepcopy(whole)
            for key in place[:-1]:
                part = part[key]
            part[place[-1]] = value
            file.write_text(json.dumps(changed))
            try:
                for clip in READERS[name](source, charades):
                    graphs_from(json.loads(json.dumps(dataclasses.asdict(clip))), str(file))
            except ValueError as error:
                faults += 1
                assert str(tmp_path) in str(error), (place, value)
            except VideoError:
                faults += 1
    assert faults > 50


def star(folder, **change):
    for kind, lines in {
        "object": "o000 person\no012 cup/glass/bottle",
        "relationship": "r002 in_front_of\nr009 holding",
        "action": "a012 Putting a cup somewhere",
    }.items():
        (folder / f"{kind}_classes.txt").write_text(lines)
    situation = {
        "actions": ["a012"],
        "rel_pairs": [["o000", "o012"], ["o000", "o012"]],
        "rel_labels": ["r002", "r009"],
        "bbox": [[0, 0, 16, 64], [8, 8, 16, 16], None],
        "bbox_labels": ["o000", "o012", "o012"],
    }
    entry = {
        "question_id": "Interaction_T1_13", "question": "Which object was put down?", "video_id": "001YG", "start": 0.1,
        "end": 0.9, "answer": "The cup.", "choices": [], "situations": {"000005": situation | change},
    }  # fmt: skip
    (folder / "STAR_train.json").write_text(json.dumps([entry]))
    return folder / "STAR_train.json"


def test_star(tmp_path, charades):
    (clip,) = read("star", star(tmp_path), tmp_path, charades)
    assert (clip.video, clip.text) == ("001YG.mp4", "Which object was put down?")
    (frame,) = clip.dsg.frames
    assert frame.t == 0.5
    assert boxes(frame) == {
        "person": (0, (0.0, 0.0, 0.5, 1.0)),
        "cup/glass/bottle": (12, (0.25, 0.125, 0.5, 0.25)),
    }
    assert frame.relations == (
        Relation(0, "in front of", 12), Relation(0, "holding", 12), Relation(0, "putting a cup somewhere", None),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rel_labels": ["r002"]}, "'rel_pairs' and 'rel_labels' have 2 and 1 entries, expected the same number"),
        (
            {"bbox_labels": ["o000", "o012", "o099"]},
            'it names the object "o099", expected a code of object_classes.txt',
        ),
        ({"bbox": [[0, 0, 1], None, None]}, r"a 'bbox' is \[0, 0, 1\], expected \[x0, y0, x1, y1\] or null"),
    ],
)
def test_a_fault_in_star_is_named(change, message, tmp_path, charades):
    with pytest.raises(ValueError, match=f"STAR_train.json: entry 0: situations.000005: {message}"):
        list(READERS["star"](star(tmp_path, **change), charades))
