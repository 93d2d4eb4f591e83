"""MSRVTT's own files, small ones of each format."""

import json

import pytest
from helpers.published import MSRVTT, ODD_LINE_ENDS, write

from stgt.data.datasets.msrvtt import read_msrvtt_1ka, read_msrvtt_7k, read_msrvtt_full

JSFUSION = 'key,vid_key,video_id,sentence\nret0,msr7,video7,"a man, in a kitchen, cooks"\n'


@pytest.fixture
def msrvtt(tmp_path):
    write(tmp_path / "MSRVTT_data.json", MSRVTT)
    write(tmp_path / "MSRVTT_JSFUSION_test.csv", JSFUSION)
    return tmp_path


def videos(clips):
    return [clip.video for clip in clips]


def test_msrvtt(msrvtt):
    splits = read_msrvtt_1ka(msrvtt)
    assert splits["train"] == [("video0.mp4", ("a car is shown", "someone drives")), ("video6.mp4", ("a cat",))]
    assert splits["test"] == [("video7.mp4", ("a man, in a kitchen, cooks",))]
    assert read_msrvtt_7k(msrvtt) == splits  # all videos but the test's are of these splits here
    full = read_msrvtt_full(msrvtt)
    assert {split: videos(clips) for split, clips in full.items()} == {
        "train": ["video0.mp4"], "val": ["video6.mp4"], "test": ["video7.mp4"],
    }  # fmt: skip
    assert full["test"] == [("video7.mp4", ("a man cooks",))]


def test_msrvtt_in_the_two_files_of_its_authors(msrvtt):
    whole = read_msrvtt_full(msrvtt)
    (msrvtt / "MSRVTT_data.json").unlink()
    for part, ours in (("train_val", lambda video: video != "video7"), ("test", lambda video: video == "video7")):
        data = {key: [entry for entry in MSRVTT[key] if ours(entry["video_id"])] for key in ("videos", "sentences")}
        write(msrvtt / f"{part}_videodatainfo.json", data)
    assert read_msrvtt_full(msrvtt) == whole
    (msrvtt / "test_videodatainfo.json").unlink()
    with pytest.raises(ValueError, match="test_videodatainfo.json: no such file"):
        read_msrvtt_full(msrvtt)


@pytest.mark.parametrize(
    "file, content, message",
    [
        ("MSRVTT_data.json", "{", "MSRVTT_data.json: not JSON"),
        ("MSRVTT_data.json", [], r"holds \[\], expected an object"),
        ("MSRVTT_data.json", {"videos": []}, "no list of 'sentences'"),
        ("MSRVTT_data.json", MSRVTT | {"sentences": [{"video_id": "a"}]}, "no text 'caption'"),
        ("MSRVTT_data.json", MSRVTT | {"videos": MSRVTT["videos"][1:]}, "'video0' has captions, expected it among"),
        ("MSRVTT_data.json", MSRVTT | {"videos": MSRVTT["videos"] * 2}, "video0 is there twice, expected it once"),
        ("MSRVTT_data.json", MSRVTT | {"videos": [{"video_id": "a", "split": "dev"}]}, "a is of the split 'dev'"),
        ("MSRVTT_JSFUSION_test.csv", "video_id,sentence\nvideo9,a\n", "video_id in line 2 is 'video9'"),
        ("MSRVTT_JSFUSION_test.csv", "video_id\nvideo7\n", "no column sentence"),
        (
            "MSRVTT_JSFUSION_test.csv",
            "video_id,sentence\nvideo7\n",
            "the row in line 2 has 1 cells, expected the 2 of the header",
        ),
        ("MSRVTT_JSFUSION_test.csv", "video_id,sentence\nvideo7,red, green\n", "the row in line 2 has 3 cells"),
        ("MSRVTT_JSFUSION_test.csv", "video_id,sentence,video_id\na,b,c\n", "2 columns video_id among"),
        ("MSRVTT_JSFUSION_test.csv", JSFUSION + "r,m,video7,again\n", "video7 is there twice"),
        ("MSRVTT_JSFUSION_test.csv", b"video_id,sentence\nv,caf\xe9\n", "line 2 is not UTF-8"),
        (
            "MSRVTT_JSFUSION_test.csv",
            JSFUSION + "r,m,video7.mp4,a\n",
            "video_id in line 3 is 'video7.mp4', expected one",
        ),
        ("MSRVTT_JSFUSION_test.csv", JSFUSION + "r,m, video0,a\n", "video_id in line 3 is ' video0', expected one"),
        ("MSRVTT_JSFUSION_test.csv", JSFUSION + "r,m,video8,a\n", "video_id in line 3 is 'video8', expected one that"),
        ("MSRVTT_JSFUSION_test.csv", None, "MSRVTT_JSFUSION_test.csv: no such file"),
    ],
)
def test_malformed_files_are_named(msrvtt, file, content, message):
    (msrvtt / file).unlink()
    if content is not None:
        write(msrvtt / file, content)
    with pytest.raises(ValueError, match=message) as error:
        read_msrvtt_1ka(msrvtt)
    assert str(msrvtt / file) in str(error.value)


def test_a_line_ends_with_a_line_feed_alone(tmp_path):
    """Captions keep what other programs take for a line's end. A carriage return outside quotes becomes a space."""
    odd = ODD_LINE_ENDS
    table = f'\ufeffkey,video_id,sentence\r\nret0,video7,{odd}\r\nret1,video6,"{odd}, too"\r\n'
    write(tmp_path / "MSRVTT_JSFUSION_test.csv", table.encode("utf-8"))
    write(tmp_path / "MSRVTT_data.json", ("\ufeff" + json.dumps(MSRVTT, indent=1)).encode("utf-8"))
    splits = read_msrvtt_1ka(tmp_path)
    assert splits["test"] == [
        ("video7.mp4", (odd.replace("\r", " "),)),
        ("video6.mp4", (odd.replace("\r", " ") + ", too",)),
    ]
    assert videos(splits["train"]) == ["video0.mp4"]


def test_a_table_that_is_not_csv_is_named(tmp_path):
    write(tmp_path / "MSRVTT_data.json", MSRVTT)
    write(tmp_path / "MSRVTT_JSFUSION_test.csv", 'video_id,sentence\nvideo7,"' + "a" * 200_000 + '"\n')
    with pytest.raises(ValueError, match="FUSION_test.csv: the row in line 2 is not CSV .field larger than"):
        read_msrvtt_1ka(tmp_path)


@pytest.mark.parametrize(
    ("rows", "line"),
    [
        ('video7,"a man\nvideo0,a car\n', 2),
        ('video7,a man\n\nvideo0,"a car\nvideo6,"a cat"\n', 4),
        ('video7,"a\nman"\nvideo0,"a car" drives\n', 4),
    ],
)
def test_a_quote_that_does_not_close_swallows_no_row(tmp_path, rows, line):
    write(tmp_path / "MSRVTT_data.json", MSRVTT)
    write(tmp_path / "MSRVTT_JSFUSION_test.csv", "video_id,sentence\n" + rows)
    with pytest.raises(
        ValueError, match=f"FUSION_test.csv: the row in line {line} is not CSV .*, expected quotes that"
    ):
        read_msrvtt_1ka(tmp_path)
