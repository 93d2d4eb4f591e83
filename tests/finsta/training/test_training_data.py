"""The clips of a post-training: what is refused, and what the controls are made of."""

import json
from dataclasses import replace

import pytest
import torch
from helpers.scenes import scene

from stgt.data.samples import collate
from stgt.data.transforms import eval_transform
from stgt.finsta.graphs.lines import write_graphs
from stgt.finsta.training.data import GraphDataset, labels_of, read_clips, shuffled


def test_an_item_is_a_clip_with_its_graphs_and_times(clips, graphs):
    found = read_clips(graphs)
    items = GraphDataset(graphs, found, clips / "videos", frames=4, transform=eval_transform(16))
    assert len(items) == 19
    batch = collate([items[3], items[5]])
    assert batch["graphs"] == [found[3], found[5]] and batch["times"].shape == (2, 4)
    assert batch["times"].dtype == torch.float64 and (batch["times"].diff() > 0).all()
    assert batch["video"].shape == (2, 4, 3, 16, 16)
    assert batch["video_index"].tolist() == [items[3]["video_index"], items[5]["video_index"]]
    assert len({items[place]["video_index"] for place in range(19)}) == 19


@pytest.mark.parametrize("missing", [dict(text="", tsg=None), dict(tsg=None), dict(dsg=None)])
def test_a_clip_without_a_text_or_a_graph_is_named(tmp_path, missing):
    write_graphs(tmp_path / "graphs.jsonl", [scene(0), replace(scene(1), **missing)])
    name = next(iter(missing))
    with pytest.raises(ValueError, match=rf'clip 2 \("1.mp4"\) has no {name!r}, expected a text and both graphs'):
        read_clips(tmp_path / "graphs.jsonl")


def test_a_file_without_clips_is_refused(tmp_path):
    (tmp_path / "graphs.jsonl").write_text("\n")
    with pytest.raises(ValueError, match="there is no clip in it"):
        read_clips(tmp_path / "graphs.jsonl")


@pytest.mark.parametrize("videos", [2, 3, 7])
def test_shuffled_clips_exchange_the_graphs_of_videos(videos):
    clips = [scene(number) for number in range(videos)]
    clips.append(replace(clips[0], text="another text", tsg=None))
    found = shuffled(clips, seed=3)
    originals = {clip.video: clip.dsg for clip in clips}
    assert all(clip.dsg != originals[clip.video] for clip in found)
    assert found[-1].dsg == found[0].dsg  # two lines about one video
    assert sorted(map(repr, {clip.video: clip.dsg for clip in found}.values())) == sorted(map(repr, originals.values()))
    assert [(clip.video, clip.text, clip.tsg) for clip in found] == [
        (clip.video, clip.text, clip.tsg) for clip in clips
    ]
    assert shuffled(clips, seed=3) == found
    if videos == 7:
        assert shuffled(clips, seed=4) != found


def test_one_video_cannot_exchange_its_graph():
    with pytest.raises(ValueError, match="about one video, expected at least two"):
        shuffled([scene(0), scene(0)], seed=0)


def test_labels_are_those_of_the_objects_with_their_attributes():
    clip = scene(4)
    words = [node.text for node in clip.tsg.nodes if node.kind in ("object", "attribute")]
    assert labels_of(clip) == set(words)
    assert labels_of(replace(clip, dsg=None)) == set()


def test_wrong_arguments_of_the_command_are_named(post_train, graphs, tmp_path):
    for option, value, expected in (
        ("--warmup", 1.5, "PostTraining.warmup is 1.5, expected a number in [0, 1]"),
        ("--batch-size", 0, "PostTraining.batch_size is 0, expected at least 1"),
        ("--frames", 3, "PostTraining.frames is 3, expected at least 1, and None for hosts other than CLIP and BLIP-2"),
        ("--videos", tmp_path / "gone", "gone, expected an existing folder"),
        ("--osc-weight", -1, "PostTraining.osc_weight is -1.0, expected a number of at least 0"),
    ):
        status, printed = post_train(tmp_path / "out", option, value)
        assert status == 2 and expected in printed, printed
        assert not (tmp_path / "out").exists()


def test_a_missing_video_is_named_before_anything_is_written(post_train, clips, graphs, tmp_path):
    lines = [json.loads(line) for line in graphs.read_text().splitlines()]
    lines[2]["video"] = "gone.mp4"
    (tmp_path / "graphs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    videos = ["--videos", clips / "videos"]
    status, printed = post_train(tmp_path / "out", *videos, file=tmp_path / "graphs.jsonl")
    assert status == 2 and "gone.mp4" in printed and not (tmp_path / "out").exists()


def test_the_folder_beside_the_graphs_comes_before_that_of_the_run(post_train, graphs, tmp_path):
    file = tmp_path / "graphs.jsonl"
    file.write_text(graphs.read_text())
    (tmp_path / "videos").mkdir()
    status, printed = post_train(tmp_path / "out", file=file)
    assert status == 2 and str(tmp_path / "videos") in printed
