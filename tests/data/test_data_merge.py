"""Several annotations become one."""

import pytest
from helpers.published import write

from stgt.data.annotations import load_captions
from stgt.data.merge import merge


def test_sets_to_train_on_together_are_merged(tmp_path):
    data = tmp_path / "data"
    (data / "webvid").mkdir(parents=True)
    (tmp_path / "disk").mkdir()
    (data / "webvid" / "videos").symlink_to(tmp_path / "disk")
    write(data / "webvid" / "train.json", [{"video": "p/1.mp4", "caption": "a"}, {"video": "2.mp4", "caption": "b"}])
    write(data / "cc3m" / "train.json", [{"video": "00000/1.jpg", "caption": "a"}])
    both = (data / "webvid" / "train.json", data / "cc3m" / "train.json")
    merge(both, tmp_path / "out" / "pretrain.json", data)
    expected = ["webvid/videos/p/1.mp4", "webvid/videos/2.mp4", "cc3m/videos/00000/1.jpg"]
    assert [clip.video for clip in load_captions(tmp_path / "out" / "pretrain.json")] == expected
    with pytest.raises(ValueError, match="webvid/train.json: its folder videos is not below .*cc3m"):
        merge(both, tmp_path / "again.json", data / "cc3m")
    for wrong in (both + both[:1], both[:1]):
        with pytest.raises(ValueError, match="annotations are .*train.json, expected several, each once"):
            merge(wrong, tmp_path / "again.json", data)
    assert not (tmp_path / "again.json").exists()
