import json
import pickle

import pytest

from stgt.data.annotations import load_captions
from stgt.data.commands import convert
from stgt.data.readers import read_didemo, read_lsmdc, read_msrvtt, read_msvd, read_names, read_webvid


def write(path, text):
    path.write_text(text if isinstance(text, str) else json.dumps(text), encoding="utf-8")
    return path


@pytest.fixture
def msrvtt(tmp_path):
    sentences = [("video0", "a car is shown"), ("video7", "a man cooks"), ("video0", "someone drives")]
    data = {
        "videos": [{"video_id": v, "split": "train"} for v in ("video0", "video7")],
        "sentences": [{"video_id": v, "caption": c, "sen_id": i} for i, (v, c) in enumerate(sentences)],
    }
    return write(tmp_path / "MSRVTT_data.json", data)


@pytest.fixture
def jsfusion(tmp_path):
    rows = 'key,vid_key,video_id,sentence\nret0,msr7,video7,"a man, in a kitchen, cooks"\n'
    return write(tmp_path / "MSRVTT_JSFUSION_test.csv", rows)


def test_msrvtt(msrvtt, jsfusion):
    assert read_msrvtt(msrvtt) == [
        ("video0.mp4", ("a car is shown", "someone drives")),
        ("video7.mp4", ("a man cooks",)),
    ]
    assert read_msrvtt(jsfusion) == [("video7.mp4", ("a man, in a kitchen, cooks",))]


def test_msvd(tmp_path):
    lines = "# comments\n\nmv89_3_4 A bird bathes.\nabc_0_9 a dog runs\nmv89_3_4 a bird\n"
    text = write(tmp_path / "all.txt", lines)
    words = write(tmp_path / "raw.json", {"mv89_3_4": [["A", "bird", "bathes."], "a bird"], "abc_0_9": ["a dog runs"]})
    expected = [("mv89_3_4.avi", ("A bird bathes.", "a bird")), ("abc_0_9.avi", ("a dog runs",))]
    assert read_msvd(text) == read_msvd(words) == expected


def test_a_pickle_is_never_opened(tmp_path):
    class Trap:
        def __reduce__(self):
            return (tmp_path.joinpath("sprung").touch, ())

    path = tmp_path / "raw-captions.pkl"
    path.write_bytes(pickle.dumps(Trap()))
    with pytest.raises(ValueError, match="raw-captions.pkl is a pickle.*json.dump"):
        read_msvd(path)
    assert not (tmp_path / "sprung").exists()


def test_didemo_sentences_become_a_paragraph(tmp_path):
    moments = [
        {"video": "a.avi", "description": "a cat appears", "times": [[0, 0]], "annotation_id": 1},
        {"video": "b.mov", "description": "rain"},
        {"video": "a.avi", "description": "the cat leaves "},
    ]
    assert read_didemo(write(tmp_path / "train_data.json", moments)) == [
        ("a.avi", ("a cat appears the cat leaves",)),
        ("b.mov", ("rain",)),
    ]


def test_lsmdc(tmp_path):
    clip = "1001_American_Beauty_00.00.51.926-00.00.54.129"
    row = "\t".join([clip, "00.00.51.926", "00.00.54.129", "0", "1", 'SOMEONE says "no'])
    clips = read_lsmdc(write(tmp_path / "LSMDC16_annos_training.csv", row + "\n"))
    assert clips == [(f"1001_American_Beauty/{clip}.avi", ('SOMEONE says "no',))]


def test_webvid(tmp_path):
    table = 'videoid,contentUrl,duration,page_dir,name\n211,https://x,PT00H00M11S,006001_006050,"Aerial\nshot, city"\n'
    assert read_webvid(write(tmp_path / "r.csv", table)) == [("006001_006050/211.mp4", ("Aerial\nshot, city",))]


@pytest.mark.parametrize(
    "reader, text, message",
    [
        (read_msrvtt, "{", "not JSON"),
        (read_msrvtt, "[]", "holds a list, expected a dict"),
        (read_msrvtt, "{}", "no list of 'sentences'"),
        (read_msrvtt, '{"sentences": [{"video_id": "video0"}]}', "no text 'caption'"),
        (read_didemo, '[{"video": 3, "description": "a"}]', "no text 'video'"),
        (read_msvd, '{"a": ["  "]}', "a.avi has an empty caption"),
        (read_msvd, '{"a": "a bird"}', "'a' has 'a bird', expected a list"),
        (read_lsmdc, "clip\t0\t1\n", "line 1 has 3 columns, expected 6"),
        (read_webvid, "videoid,name\n1,a\n", "no column page_dir"),
        (read_webvid, "videoid,page_dir,name\n1,a\n", "row 1 is cut short"),
    ],
)
def test_malformed_files_are_named(tmp_path, reader, text, message):
    with pytest.raises(ValueError, match=message):
        reader(write(tmp_path / "source.json", text))


def test_missing_files_are_named(tmp_path):
    with pytest.raises(ValueError, match="gone.csv: no such file"):
        read_webvid(tmp_path / "gone.csv")


def test_names_of_videos(tmp_path, jsfusion):
    assert read_names(jsfusion) == {"video7"}
    lsmdc = "1001_A_00.00.51.926-00.00.54.129"
    assert read_names(write(tmp_path / "l.txt", f"a/video1.mp4\nvideo2\n\n{lsmdc}\n")) == {"video1", "video2", lsmdc}


def test_conversion_keeps_and_drops(msrvtt, jsfusion, tmp_path):
    convert("msrvtt", msrvtt, tmp_path / "new" / "train.json", drop=jsfusion)
    convert("msrvtt", msrvtt, tmp_path / "kept.json", keep=jsfusion)
    convert("msrvtt", jsfusion, tmp_path / "test.json")
    assert load_captions(tmp_path / "new" / "train.json") == [("video0.mp4", ("a car is shown", "someone drives"))]
    assert load_captions(tmp_path / "kept.json") == [("video7.mp4", ("a man cooks",))]
    assert load_captions(tmp_path / "test.json") == [("video7.mp4", ("a man, in a kitchen, cooks",))]
    with pytest.raises(ValueError, match="leave, expected at least one"):
        convert("msrvtt", jsfusion, tmp_path / "none.json", drop=jsfusion)
