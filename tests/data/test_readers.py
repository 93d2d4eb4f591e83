"""The benchmarks' own files, small ones of each format."""

import json
import pickle

import pytest
from helpers.published import MSRVTT, QUESTION, write

from stgt.data import readers
from stgt.data.annotations import load_captions
from stgt.data.files import VideoFolder, name_of, read_lines
from stgt.structure import read_json


def videos(split):
    return [entry.video for entry in split]


JSFUSION = 'key,vid_key,video_id,sentence\nret0,msr7,video7,"a man, in a kitchen, cooks"\n'


@pytest.fixture
def msrvtt(tmp_path):
    write(tmp_path / "MSRVTT_data.json", MSRVTT)
    write(tmp_path / "MSRVTT_JSFUSION_test.csv", JSFUSION)
    return tmp_path


def test_msrvtt(msrvtt):
    splits = readers.read_msrvtt_1ka(msrvtt)
    assert splits["train"] == [("video0.mp4", ("a car is shown", "someone drives")), ("video6.mp4", ("a cat",))]
    assert splits["test"] == [("video7.mp4", ("a man, in a kitchen, cooks",))]
    assert readers.read_msrvtt_7k(msrvtt) == splits  # in this small one all but the test video are of these splits
    full = readers.read_msrvtt_full(msrvtt)
    assert {split: videos(clips) for split, clips in full.items()} == {
        "train": ["video0.mp4"], "val": ["video6.mp4"], "test": ["video7.mp4"],
    }  # fmt: skip
    assert full["test"] == [("video7.mp4", ("a man cooks",))]


def test_msrvtt_in_the_two_files_of_its_authors(msrvtt):
    whole = readers.read_msrvtt_full(msrvtt)
    (msrvtt / "MSRVTT_data.json").unlink()
    for part, ours in (("train_val", lambda video: video != "video7"), ("test", lambda video: video == "video7")):
        data = {key: [entry for entry in MSRVTT[key] if ours(entry["video_id"])] for key in ("videos", "sentences")}
        write(msrvtt / f"{part}_videodatainfo.json", data)
    assert readers.read_msrvtt_full(msrvtt) == whole
    (msrvtt / "test_videodatainfo.json").unlink()
    with pytest.raises(ValueError, match="test_videodatainfo.json: no such file"):
        readers.read_msrvtt_full(msrvtt)


@pytest.mark.parametrize("form", ["AllVideoDescriptions.txt", "raw-captions.json"])
def test_msvd(tmp_path, form):
    lines = (
        "# comments\r\n\r\nmv89_3_4 A bird bathes.\nabc_0_9 a dog runs\nmv89_3_4 a bird\nxyz_1_2 rain\nnot_listed a\n"
    )
    words = {"mv89_3_4": [["A", "bird", "bathes."], "a bird"], "abc_0_9": ["a dog runs"], "xyz_1_2": [["rain"]]}
    write(tmp_path / form, lines if form.endswith("txt") else words)
    for split, clip in (("train", "mv89_3_4"), ("val", "xyz_1_2"), ("test", "abc_0_9")):
        write(tmp_path / f"{split}_list.txt", f"{clip}\n")
    assert readers.read_msvd(tmp_path) == {
        "train": [("mv89_3_4.avi", ("A bird bathes.", "a bird"))],
        "val": [("xyz_1_2.avi", ("rain",))],
        "test": [("abc_0_9.avi", ("a dog runs",))],
    }
    write(tmp_path / "val_list.txt", "xyz_1_2\nxyz_1_2\n")
    with pytest.raises(ValueError, match="val_list.txt: xyz_1_2 in line 2 is there twice"):
        readers.read_msvd(tmp_path)
    write(tmp_path / "val_list.txt", "nobody_0_1\n")
    with pytest.raises(ValueError, match="val_list.txt: nobody_0_1 in line 1 has no caption"):
        readers.read_msvd(tmp_path)


def test_a_pickle_is_never_opened(tmp_path):
    class Trap:
        def __reduce__(self):
            return (tmp_path.joinpath("sprung").touch, ())

    write(tmp_path / "raw-captions.pkl", pickle.dumps(Trap()))
    with pytest.raises(ValueError, match="raw-captions.pkl is a pickle.*json.dump"):
        readers.read_msvd(tmp_path)
    assert not (tmp_path / "sprung").exists()


def test_didemo_sentences_become_a_paragraph(tmp_path):
    moments = [
        {"video": "a@N0.avi", "description": "a cat appears", "times": [[0, 0]], "annotation_id": 1, "num_segments": 6},
        {"video": "b.mov", "description": "rain"},
        {"video": "a@N0.avi", "description": "the cat leaves "},
    ]
    for split in ("train", "val", "test"):
        write(tmp_path / f"{split}_data.json", moments)
    write(tmp_path / "val_list.txt", "b.mov\n")
    splits = readers.read_didemo(tmp_path)
    assert splits["train"] == [("a@N0.avi", ("a cat appears the cat leaves",)), ("b.mov", ("rain",))]
    assert splits["val"] == [("b.mov", ("rain",))]


def test_a_didemo_video_of_two_names_is_one_video(tmp_path, caplog):
    moments = [
        {"video": "a@N0_1_x.mov", "description": "a cat appears"},
        {"video": "b@N0_2_y.", "description": "rain"},
        {"video": "a@N0_1_x.mp4", "description": "it sleeps"},
        {"video": "a@N0_1_x.mov", "description": "it leaves"},
        {"video": "b@N0_2_y.mp4", "description": "snow"},
    ]
    for split in ("train", "val", "test"):
        write(tmp_path / f"{split}_data.json", moments)
    write(tmp_path / "test_list.txt", "a@N0_1_x.mp4\nb@N0_2_y.\n")
    splits = readers.read_didemo(tmp_path)
    joined = [("a@N0_1_x.mov", ("a cat appears it sleeps it leaves",)), ("b@N0_2_y.", ("rain snow",))]
    assert splits["train"] == splits["val"] == joined
    assert "val_data.json: 4 names are 2 videos, because 2 names differ" in caplog.text
    assert splits["test"] == [("a@N0_1_x.mp4", ("it sleeps",)), ("b@N0_2_y.", ("rain",))]
    write(tmp_path / "test_list.txt", "a@N0_1_x\n")
    with pytest.raises(ValueError, match="a@N0_1_x in line 1 is a@N0_1_x.mov or a@N0_1_x.mp4, expected"):
        readers.read_didemo(tmp_path)


LSMDC = "1001_American_Beauty_00.00.51.926-00.00.54.129"


def test_lsmdc(tmp_path):
    row = "\t".join([LSMDC, "00.00.51.926", "00.00.54.129", "0", "1", 'SOMEONE says "no'])
    for file in ("LSMDC16_annos_training.csv", "LSMDC16_annos_val.csv", "LSMDC16_challenge_1000_publictect.csv"):
        write(tmp_path / file, row + "\r\n")
    clips = [(f"1001_American_Beauty/{LSMDC}.avi", ('SOMEONE says "no',))]
    assert readers.read_lsmdc(tmp_path) == {"train": clips, "val": clips, "test": clips}
    (tmp_path / "LSMDC16_challenge_1000_publictect.csv").rename(tmp_path / "LSMDC16_annos_test.csv")
    assert readers.read_lsmdc(tmp_path)["test"] == clips


def test_msrvtt_qa(tmp_path):
    for split in ("train", "val", "test"):
        write(tmp_path / f"{split}_qa.json", [QUESTION])
    assert readers.read_msrvtt_qa(tmp_path)["val"] == [("video6513.mp4", "what is a man on?", "couch", 158581)]


def test_msvd_qa_takes_its_clips_from_the_mapping(tmp_path):
    for number, split in enumerate(("train", "val", "test"), start=1):
        write(tmp_path / f"{split}_qa.json", [{k: v for k, v in QUESTION.items() if k != "category_id"}
                                             | {"video_id": number}])  # fmt: skip
    write(tmp_path / "youtube_mapping.txt", "-4wsuPCjDBc_5_15 vid1\n-7KMZQEsJW4_205_208 vid2\n\nabc_0_9 vid3\n")
    splits = readers.read_msvd_qa(tmp_path)
    assert videos(splits["train"]) == ["-4wsuPCjDBc_5_15.avi"] and videos(splits["test"]) == ["abc_0_9.avi"]
    write(tmp_path / "youtube_mapping.txt", "-4wsuPCjDBc_5_15 vid1\n")
    with pytest.raises(ValueError, match="youtube_mapping.txt: no vid2"):
        readers.read_msvd_qa(tmp_path)
    write(tmp_path / "youtube_mapping.txt", "a vid1\nb vid1\n")
    with pytest.raises(ValueError, match="youtube_mapping.txt: line 2 is 'b vid1'"):
        readers.read_msvd_qa(tmp_path)


@pytest.mark.parametrize(
    "reader, file, content, message",
    [
        (readers.read_msrvtt_1ka, "MSRVTT_data.json", "{", "MSRVTT_data.json: not JSON"),
        (readers.read_msrvtt_1ka, "MSRVTT_data.json", [], r"holds \[\], expected an object"),
        (readers.read_msrvtt_1ka, "MSRVTT_data.json", {"videos": []}, "no list of 'sentences'"),
        (readers.read_msrvtt_1ka, "MSRVTT_data.json", MSRVTT | {"sentences": [{"video_id": "a"}]}, "no text 'caption'"),
        (readers.read_msrvtt_1ka, "MSRVTT_JSFUSION_test.csv", "video_id\nvideo7\n", "no column sentence"),
        (readers.read_msrvtt_1ka, "MSRVTT_JSFUSION_test.csv", "video_id,sentence\nvideo7\n", "row 1 is cut short"),
        (readers.read_msrvtt_1ka, "MSRVTT_JSFUSION_test.csv", JSFUSION + "r,m,video7,again\n", "video7 is there twice"),
        (readers.read_msrvtt_1ka, "MSRVTT_JSFUSION_test.csv", b"video_id,sentence\nv,caf\xe9\n", "line 2 is not UTF-8"),
        (readers.read_msrvtt_1ka, "MSRVTT_JSFUSION_test.csv", None, "MSRVTT_JSFUSION_test.csv: no such file"),
        (readers.read_didemo, "train_data.json", [{"video": 3, "description": "a"}], "no text 'video'"),
        (readers.read_msvd, "raw-captions.json", {"a": ["  "]}, "raw-captions.json: a.avi has an empty caption"),
        (readers.read_msvd, "raw-captions.json", {"a": "a bird"}, "'a' has 'a bird', expected a list"),
        (readers.read_msvd, "raw-captions.json", '{"a": ["b"], "a": ["c"]}', 'an object that has the key "a" twice'),
        (readers.read_lsmdc, "LSMDC16_annos_training.csv", "clip\t0\t1\n", "line 1 has 3 columns, expected 6"),
        (readers.read_msrvtt_qa, "train_qa.json", [QUESTION | {"video_id": "x"}], "entry 0 .* a number 'video_id'"),
        (readers.read_msrvtt_qa, "train_qa.json", [QUESTION | {"answer": ""}], "no text 'answer'"),
    ],
)  # fmt: skip
def test_malformed_files_are_named(msrvtt, reader, file, content, message):
    (msrvtt / file).unlink(missing_ok=True)
    if content is not None:
        write(msrvtt / file, content)
    with pytest.raises(ValueError, match=message) as error:
        reader(msrvtt)
    assert str(msrvtt / file) in str(error.value)


def test_names_of_videos():
    assert name_of("a/video1.mp4") == name_of("video1") == "video1"
    assert name_of(f"film/{LSMDC}.avi") == name_of(LSMDC) == LSMDC
    assert name_of("1@N0_2_x.m2ts") == name_of("1@N0_2_x.3g2") == name_of("1@N0_2_x.") == "1@N0_2_x"
    assert name_of("x.MOV") == "x" and name_of("00000/000012.jpg") == "000012"


def test_an_ending_may_follow_the_whole_name(tmp_path):
    for file in ("1@N0_2_x.mov.mp4", "1@N0_2_x.mp4.mp4", "1@N0_3_y..mp4"):
        write(tmp_path / file, b"film")
    folder = VideoFolder(tmp_path)
    assert folder.find("1@N0_2_x.mov") == "1@N0_2_x.mov.mp4" and folder.find("1@N0_2_x.mp4") == "1@N0_2_x.mp4.mp4"
    assert folder.find("1@N0_3_y.") == "1@N0_3_y..mp4" and folder.find("1@N0_4_z.mov") is None


def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path):
    path = write(tmp_path / "bom.json", b'\xef\xbb\xbf{"a":\n1}')
    assert list(read_lines(path)) == ['{"a":\n', "1}"] and read_json(path) == {"a": 1}


ODD = "a\u2028b\x85c\u2029d\x0ce\x1cf\rg"


def test_a_line_ends_with_a_line_feed_alone(tmp_path):
    """Captions keep what other programs take for a line's end; a carriage return outside quotes becomes a space."""
    table = f'\ufeffkey,video_id,sentence\r\nret0,video7,{ODD}\r\nret1,video8,"{ODD}, too"\r\n'
    write(tmp_path / "MSRVTT_JSFUSION_test.csv", table.encode("utf-8"))
    write(tmp_path / "MSRVTT_data.json", ("\ufeff" + json.dumps(MSRVTT, indent=1)).encode("utf-8"))
    splits = readers.read_msrvtt_1ka(tmp_path)
    assert splits["test"] == [
        ("video7.mp4", (ODD.replace("\r", " "),)),
        ("video8.mp4", (ODD.replace("\r", " ") + ", too",)),
    ]
    assert videos(splits["train"]) == ["video0.mp4", "video6.mp4"]
    write(tmp_path / "captions.json", json.dumps([{"video": "a.mp4", "caption": ODD}], ensure_ascii=False))
    assert load_captions(tmp_path / "captions.json") == [("a.mp4", (ODD,))]


def test_a_table_that_is_not_csv_is_named(tmp_path):
    write(tmp_path / "MSRVTT_data.json", MSRVTT)
    write(tmp_path / "MSRVTT_JSFUSION_test.csv", 'video_id,sentence\nvideo7,"' + "a" * 200_000 + '"\n')
    with pytest.raises(ValueError, match="FUSION_test.csv: the row after line 1 is not CSV .field larger than"):
        readers.read_msrvtt_1ka(tmp_path)
