"""Videos that `stgt data check` found to be broken are left out of shards."""

import json

import pytest
from helpers.clips import grey, write_video

from stgt.data.annotations import load_videos

pytest.importorskip("fsspec", reason="pip install fsspec aiohttp")
pd = pytest.importorskip("pandas", reason="pip install pandas")

NAMES = ["a.mp4", "b.mp4", "c.mp4"]


@pytest.fixture
def annotation(tmp_path):
    """Captions of three clips, of which the last is missing."""
    (tmp_path / "videos").mkdir()
    for name in NAMES[:2]:
        write_video(tmp_path / "videos" / name, grey(6))
    place = tmp_path / "train.json"
    place.write_text(json.dumps([{"video": name, "caption": f"the clip {name}"} for name in NAMES]))
    return place


def bad_list(folder, names):
    place = folder / "train.bad.json"
    place.write_text(json.dumps(dict.fromkeys(names, "it is broken")))
    return place


def test_videos_of_a_bad_list_are_not_packed(annotation, tmp_path, stgt, caplog):
    listed = bad_list(tmp_path, NAMES[2:])
    status, _ = stgt("data", "pack", annotation, "--out", tmp_path / "out", "--bad-list", listed)
    assert status == 0 and f"1 of 3 videos are left out, {listed} lists them" in caplog.text
    packed = tmp_path / "out" / "train.parquet"
    assert pd.read_parquet(packed)["packed_from"].tolist() == NAMES[:2]

    listed = bad_list(tmp_path, [load_videos(packed)[0]])
    words = ("data", "pack", packed, "--videos", tmp_path / "out", "--out", tmp_path / "again", "--bad-list", listed)
    status, _ = stgt(*words)
    assert status == 0 and f"1 of 2 videos are left out, {listed} lists them" in caplog.text
    assert pd.read_parquet(tmp_path / "again" / "train.parquet")["packed_from"].tolist() == NAMES[1:2]


def test_a_bad_list_with_all_videos_is_refused(annotation, tmp_path, stgt):
    listed = bad_list(tmp_path, NAMES)
    status, printed = stgt("data", "pack", annotation, "--out", tmp_path / "out", "--bad-list", listed)
    assert status == 2 and f"{listed} lists every video, expected one that is left" in printed
    assert not (tmp_path / "out").exists()
