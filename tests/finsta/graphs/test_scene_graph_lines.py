"""Scene graphs in files: what is written is read back, and each fault is named with its file, line and key."""

import copy
import json
import re

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
from stgt.finsta.graphs.lines import read_graphs, write_graphs

TEXT = "A red ball slowly rolls."
TSG = TextGraph(
    (
        TextNode(0, "attribute", "red", (2, 5)),
        TextNode(1, "object", "ball", (6, 10)),
        TextNode(2, "adverb", "slowly", (11, 17)),
        TextNode(3, "predicate", "rolls", (18, 23)),
    ),
    (TextEdge(1, 0, "attribute"), TextEdge(3, 1, "subject"), TextEdge(3, 2, "adverb")),
)
DSG = VideoGraph(
    (
        Frame(
            0.0, (SeenObject(4, "ball", 0.5, (0.0, 0.25, 0.5, 1.0), ("red",)),), (Relation(4, "rolling", None, 0.75),)
        ),
        Frame(
            0.5,
            (SeenObject(4, "ball", 1.0, (0.125, 0.25, 0.5, 1.0)), SeenObject(7, "box", 1.0, (0.5, 0.0, 1.0, 1.0))),
            (Relation(4, "left of", 7, 1.0),),
        ),
    )
)
CLIPS = [
    ClipGraphs("a.mp4", TEXT, TSG, DSG, "detector", (Grounding(1, (4,), 0.0, 1.0), Grounding(3, (4, 7), 0.0, 0.5))),
    ClipGraphs("folder/é.mp4", TEXT, TSG, None, "parser"),
    ClipGraphs("b.mp4", "", None, DSG, "gold"),
]


def test_what_is_written_is_read_back(tmp_path):
    assert write_graphs(tmp_path / "new" / "graphs.jsonl", CLIPS) == 3
    assert list(read_graphs(tmp_path / "new" / "graphs.jsonl")) == CLIPS


def test_a_line_has_the_documented_keys(tmp_path):
    write_graphs(tmp_path / "graphs.jsonl", CLIPS[:1])
    line = json.loads((tmp_path / "graphs.jsonl").read_text("utf-8"))
    assert line["tsg"]["nodes"][1] == {"id": 1, "kind": "object", "text": "ball", "span": [6, 10]}
    assert line["tsg"]["edges"][0] == [1, 0, "attribute"]
    assert line["dsg"]["frames"][1] == {
        "t": 0.5,
        "objects": [
            {"track": 4, "label": "ball", "score": 1.0, "box": [0.125, 0.25, 0.5, 1.0], "attributes": []},
            {"track": 7, "label": "box", "score": 1.0, "box": [0.5, 0.0, 1.0, 1.0], "attributes": []},
        ],
        "relations": [[4, "left of", 7, 1.0]],
    }
    assert line["grounding"][1] == {"node": 3, "tracks": [4, 7], "start": 0.0, "end": 0.5}


FRAME = ("dsg", "frames", 1)
FAULTS = [
    (("video",), 3, "'video' is 3, expected a text"),
    (("source",), "me", "'source' is \"me\", expected one of simulated, gold, parser, detector"),
    (("surce",), "gold", 'the key "surce" is unknown, expected video, text,'),
    (("tsg", "nodes"), None, "tsg: 'nodes' is null, expected a list"),
    (("tsg", "nodes", 1, "id"), 0, "tsg.nodes[1]: 'id' is 0, expected one that no earlier node has"),
    (("tsg", "nodes", 1, "id"), -1, "tsg.nodes[1]: 'id' is -1, expected 0 or more"),
    (("tsg", "nodes", 1, "kind"), "thing", "tsg.nodes[1]: 'kind' is \"thing\", expected one of object, attribute,"),
    (("tsg", "nodes", 1, "span"), [6, 99], "tsg.nodes[1]: 'span' is [6, 99], expected [start, end] inside the 24"),
    (("tsg", "nodes", 1, "span"), [6, 6], "tsg.nodes[1]: 'span' is [6, 6]"),
    (("tsg", "edges", 0), [1, 0], "tsg.edges[0]: it is [1, 0], expected [source, target, type]"),
    (("tsg", "edges", 0), [9, 0, "attribute"], "tsg.edges[0]: the source is 9, expected the id of a node"),
    (("tsg", "edges", 0), [0, 1, "attribute"], "tsg.edges[0]: the source of 'attribute' is the attribute \"red\", exp"),
    (("tsg", "edges", 0), [3, 2, "subject"], "the target of 'subject' is the adverb \"slowly\", expected object or pr"),
    (("tsg", "edges", 0), [1, 0, "has"], 'tsg.edges[0]: the type is "has", expected one of subject, object,'),
    ((*FRAME, "t"), 0.0, "dsg.frames[1]: 't' is 0, expected more than 0, the time of the frame before"),
    ((*FRAME, "t"), "1", "dsg.frames[1]: 't' is \"1\", expected a number"),
    ((*FRAME, "objects", 1, "track"), 4, "dsg.frames[1].objects[1]: 'track' is 4, expected one that no earlier object"),
    ((*FRAME, "objects", 1, "box"), [0, 0, 2, 1], "dsg.frames[1].objects[1]: 'box' is [0, 0, 2, 1], expected [x0, y0"),
    ((*FRAME, "objects", 1, "box"), [0.5, 0, 0.5, 1], "objects[1]: 'box' is [0.5, 0, 0.5, 1], expected [x0, y0"),
    ((*FRAME, "objects", 1, "score"), 1.5, "objects[1]: the score is 1.5, expected a number from 0 to 1"),
    ((*FRAME, "objects", 1, "attributes"), [1], "objects[1]: 'attributes' is [1], expected a list of texts"),
    ((*FRAME, "relations", 0), [4, "on", 9, 1], "relations[0]: the object is 9, expected the track of an object of"),
    ((*FRAME, "relations", 0), [None, "on", 7, 1], "relations[0]: the subject is null, expected the track"),
    ((*FRAME, "relations", 0), [4, None, 7, 1], "relations[0]: the predicate is null, expected a text"),
    (("grounding", 0, "node"), 8, "grounding[0]: 'node' is 8, expected the id of a node of 'tsg'"),
    (("grounding", 0, "tracks"), [5], "grounding[0]: 'tracks' is [5], expected a list of tracks of 'dsg'"),
    (("grounding", 0, "end"), 0, "grounding[0]: 'start' is 0 and 'end' is 0, expected 0 <= start < end"),
]  # fmt: skip


@pytest.mark.parametrize(("place", "value", "message"), FAULTS)
def test_a_fault_is_named_with_file_line_and_key(place, value, message, tmp_path):
    file = tmp_path / "graphs.jsonl"
    write_graphs(file, CLIPS[:1])
    good = json.loads(file.read_text("utf-8"))
    bad = part = copy.deepcopy(good)
    for key in place[:-1]:
        part = part[key]
    part[place[-1]] = value
    file.write_text(f"{json.dumps(good)}\n\n{json.dumps(bad)}\n", "utf-8")
    with pytest.raises(ValueError, match=re.escape(f"{file}: line 3: ") + ".*" + re.escape(message)):
        list(read_graphs(file))


def test_a_line_without_any_graph_and_one_that_is_not_json_are_refused(tmp_path):
    file = tmp_path / "graphs.jsonl"
    file.write_text('{"video": "a", "text": "", "source": "gold"}\n', "utf-8")
    with pytest.raises(ValueError, match="line 1: there is neither 'tsg' nor 'dsg'"):
        list(read_graphs(file))
    file.write_text('{"video"\n', "utf-8")
    with pytest.raises(ValueError, match="line 1: not JSON"):
        list(read_graphs(file))


def test_graphs_that_could_not_be_read_are_not_written(tmp_path):
    bad = ClipGraphs("a.mp4", "short", TSG, None, "parser")
    with pytest.raises(ValueError, match=r"clip 2 \(\"a.mp4\"\): tsg.nodes\[1\]: 'span' is \[6, 10\]"):
        write_graphs(tmp_path / "graphs.jsonl", [CLIPS[0], bad])
    with pytest.raises(ValueError, match="clip 1 .*: it holds a character that UTF-8 cannot write"):
        write_graphs(tmp_path / "graphs.jsonl", [ClipGraphs("a\udcff.mp4", TEXT, TSG, None, "parser")])
    assert not list(tmp_path.iterdir())
