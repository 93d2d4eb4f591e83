"""WebVid's own tables, small ones."""

import pytest
from helpers.published import webvid, write

from stgt.data.annotations import load_captions
from stgt.data.convert import convert


def test_webvid_in_folders_of_pages_or_in_one(tmp_path, caplog):
    source = webvid(tmp_path / "source", 3, more="9,https://x,PT1S,p,\n")
    convert("webvid", source, tmp_path / "out")
    assert load_captions(tmp_path / "out" / "train.json")[1] == ("006001/1.mp4", ("Aerial\nshot, 1",))
    assert "1 captions are empty" in caplog.text
    write(tmp_path / "videos" / "006000" / "0.mp4", b"film")
    write(tmp_path / "videos" / "1.mp4", b"film")
    convert("webvid", source, tmp_path / "found", videos=tmp_path / "videos")
    assert [clip.video for clip in load_captions(tmp_path / "found" / "train.json")] == ["006000/0.mp4", "1.mp4"]
    write(source / "results_10M_train.csv", "videoid,page_dir,name\n")
    with pytest.raises(ValueError, match="holds results_10M_train.csv, results_2M_train.csv, expected one results"):
        convert("webvid", source, tmp_path / "both")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("9,u,d,p,red, green\n", "train.csv: the row in line 6 has 6 cells, expected the 5 of the header"),
        ("9,u,d,p\n", "train.csv: the row in line 6 has 4 cells, expected the 5 of the header"),
        ('9,u,d,p,"a man\n10,u,d,p,a dog\n', "train.csv: the row in line 6 is not CSV"),
        ("9,u,d,,a man\n", "train.csv: a video is '/9.mp4', expected names for it and for its folders"),
        (",u,d,p,a man\n", "train.csv: a video is 'p/.mp4', expected names"),
        ("9,u,d,p/ /q,a man\n", "train.csv: a video is 'p/ /q/9.mp4', expected names"),
    ],
)
def test_a_row_whose_text_or_name_would_be_lost_is_named(tmp_path, row, message):
    source = webvid(tmp_path / "source", more=row)
    with pytest.raises(ValueError, match=message):
        convert("webvid", source, tmp_path / "out")
