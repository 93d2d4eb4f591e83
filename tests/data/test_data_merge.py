"""Several annotations become one."""

import pytest
from helpers.published import write

from stgt.data.annotations import load_captions
from stgt.data.manifest.cache import open_manifest
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
    for wrong, got in ((both + both[:1], ".*train.json"), ((), "none")):
        with pytest.raises(ValueError, match=f"annotations: got {got}, expected one or more, each of them once"):
            merge(wrong, tmp_path / "again.json", data)
    assert not (tmp_path / "again.json").exists()
    merge(both[:1], tmp_path / "out" / "val.json", data)
    assert [clip.video for clip in load_captions(tmp_path / "out" / "val.json")] == expected[:2]


def test_manifests_of_files_and_shards_are_merged_with_annotations(tmp_path):
    pd = pytest.importorskip("pandas")
    data = tmp_path / "data"
    for name in ("files/videos", "shards", "json"):
        (data / name).mkdir(parents=True)
    loose = [{"video": name, "caption": name[-5]} for name in ("x::a.mp4", "/disk/b.mp4")]
    pd.DataFrame(loose).to_parquet(data / "files" / "train.parquet")
    place = {"caption": "c", "offset": 512, "size": 9, "packed_from": "a.mp4"}
    shards = [{"video": "0.mp4", "shard": shard, **place} for shard in ("0.tar", "s3://bucket/0.tar")]
    pd.DataFrame(shards).to_parquet(data / "shards" / "train.parquet")
    write(data / "json" / "train.json", [{"video": "d.mp4", "caption": ["d", "e"]}])
    annotations = [data / "files" / "train.parquet", data / "shards" / "train.parquet", data / "json" / "train.json"]
    merge(annotations, data / "all.parquet", data)
    found = open_manifest(data / "all.parquet")
    assert [*found] == [
        "files/videos/x::a.mp4", "/disk/b.mp4", "shards/0.tar/0.mp4", "s3://bucket/0.tar/0.mp4", "json/videos/d.mp4",
    ]  # fmt: skip
    assert [*found.identities()][2:4] == ["shards/a.mp4"] * 2 and found.row(2).offset == 512
    assert [caption for _, caption in found.pairs] == ["a", "b", "c", "c", "d", "e"]
    with pytest.raises(ValueError, match=r"out is .*all.json, expected a name that ends in .parquet: .* is a manifest"):
        merge(annotations, data / "all.json", data)
