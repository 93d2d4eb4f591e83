"""`stgt finsta show` draws simulated and real clips, and texts with any characters."""

import json
from pathlib import Path

import pytest
from helpers.web_page import Page
from PIL import Image

from stgt.finsta.graphs.lines import read_graphs

ASSETS = Path(__file__).parents[2] / "assets"
NASTY = "<script>alert(1)</script> $x^2$ \\frac 犬 \x1b[31m & \"'"


@pytest.fixture(scope="module")
def graphs(clips, tmp_path_factory):
    """A file of the graphs of the simulated clips."""
    from stgt.finsta.graphs.lines import write_graphs
    from stgt.finsta.graphs.readers.shapes import read_shapes

    path = tmp_path_factory.mktemp("graphs") / "graphs.jsonl"
    write_graphs(path, read_shapes(clips))
    return path


def colours(path):
    with Image.open(path) as picture:
        return {colour for _, colour in picture.convert("RGB").getcolors(1 << 24)}


def test_a_simulated_clip_has_three_pictures_and_a_page(clips, graphs, stgt, tmp_path):
    number, clip = next((n, c) for n, c in enumerate(read_graphs(graphs)) if len(c.dsg.frames[0].objects) == 2)
    words = ["finsta", "show", graphs, "--clip", number, "--videos", clips / "videos", "--frames", 3]
    status, printed = stgt(*words, "--out", tmp_path / "page")
    assert status == 0 and f"scene graphs of clip {number}, {clip.video}" in printed
    assert {file.name for file in (tmp_path / "page").iterdir()} == {
        "text.png", "video.png", "whole.png", "index.html",
    }  # fmt: skip
    for name in ("video", "whole"):  # both tracks are drawn in their own colour
        assert {(0, 0x72, 0xB2), (0xD5, 0x5E, 0)} <= colours(tmp_path / "page" / f"{name}.png")
    page = Page((tmp_path / "page/index.html").read_text("utf-8"))
    assert page.tags.count("img") == 3 and clip.text in page.text and "simulated" in page.text
    assert all(source.startswith("data:image/webp;base64,") for source in page.addresses)


def test_a_real_clip_is_drawn_with_frames_of_its_own_shape(real_clips, stgt, tmp_path):
    status, _ = stgt(
        "finsta", "show", ASSETS / "bikes_graphs.jsonl", "--videos", real_clips[0].parent, "--out", tmp_path
    )
    assert status == 0
    with Image.open(tmp_path / "video.png") as picture:
        assert picture.width > 1.5 * picture.height


@pytest.mark.parametrize("with_video", [True, False])
def test_any_characters_and_a_missing_video_or_text_are_drawn(with_video, stgt, tmp_path):
    text = {"nodes": [{"id": 0, "kind": "object", "text": NASTY, "span": [0, 5]}], "edges": []}
    things = [{"track": 10**18, "label": NASTY, "score": 1.0, "box": [0, 0, 1, 1], "attributes": [NASTY]}]
    relations = [[10**18, NASTY, None, 1.0], [10**18, NASTY, 10**18, 1.0]]
    video = {"frames": [{"t": 0, "objects": things, "relations": relations}]}
    line = {"video": "", "text": NASTY, "source": "gold", "tsg": None, "dsg": None}
    line.update(dsg=video) if with_video else line.update(tsg=text)
    (tmp_path / "graphs.jsonl").write_text(json.dumps(line) + "\n")
    status, printed = stgt("finsta", "show", tmp_path / "graphs.jsonl", "--out", tmp_path / "page")
    assert status == 0, printed
    page = Page((tmp_path / "page/index.html").read_text("utf-8"))
    assert "script" not in page.tags and page.tags.count("img") == 1
    assert NASTY.replace("\x1b", "\\x1b") in page.text


def test_what_cannot_be_drawn_is_refused(graphs, clips, stgt, tmp_path):
    for options, message in (
        (["--clip", 19], f"clip is 19, but {graphs} has fewer clips"),
        (["--clip", -1], "clip is -1, expected 0 or more"),
        (["--frames", 0], "--frames is 0, expected at least 1"),
        (["--videos", tmp_path / "no"], "expected an existing folder"),
        (["--videos", tmp_path], "no such file"),
    ):
        status, printed = stgt("finsta", "show", graphs, *options, "--out", tmp_path / "page")
        assert status == 2 and message in printed
    nodes = [{"id": n, "kind": "object", "text": "a", "span": [0, 1]} for n in range(151)]
    line = {"video": "", "text": "a", "source": "gold", "tsg": {"nodes": nodes, "edges": []}, "dsg": None}
    (tmp_path / "large.jsonl").write_text(json.dumps(line) + "\n")
    status, printed = stgt("finsta", "show", tmp_path / "large.jsonl", "--out", tmp_path / "page")
    assert status == 2 and "clip 0 has 151 nodes of the text, expected at most 150" in printed
