"""Conversion of published data sets: sizes, videos that are there, splits that share nothing."""

import json
import re
from pathlib import Path

import pytest
from helpers.published import MSRVTT, QUESTION, webvid, write

from stgt.data.annotations import load_captions, load_questions
from stgt.data.convert import convert
from stgt.data.datasets import DATA_SETS


@pytest.fixture
def full_size(tmp_path):
    """MSRVTT_data.json and the 1k-A test with as many videos and captions as the real ones."""
    source = tmp_path / "downloads"
    names = [f"video{number}" for number in range(10_000)]
    splits = ["train"] * 6513 + ["validate"] * 497 + ["test"] * 2990
    data = {
        "videos": [{"video_id": name, "split": split} for name, split in zip(names, splits, strict=True)],
        "sentences": [{"video_id": name, "caption": "a car"} for name in names for _ in range(20)],
    }
    write(source / "MSRVTT_data.json", data)
    tested = names[7010::2][:1000]
    write(source / "MSRVTT_JSFUSION_test.csv", "video_id,sentence\n" + "".join(f"{name},a car\n" for name in tested))
    return source


def sizes(folder):
    found = {path.stem: load_captions(path) for path in folder.glob("*.json")}
    return {split: (len(clips), sum(len(clip.captions) for clip in clips)) for split, clips in found.items()}


def test_msrvtt_has_the_published_sizes(full_size, tmp_path):
    convert("msrvtt-1ka", full_size, tmp_path / "1ka")
    assert sizes(tmp_path / "1ka") == {"train": (9000, 180_000), "test": (1000, 1000)}
    convert("msrvtt-7k", full_size, tmp_path / "7k", hold_out=300)
    assert sizes(tmp_path / "7k") == {"train": (6710, 134_200), "val": (300, 6000), "test": (1000, 1000)}
    convert("msrvtt-full", full_size, tmp_path / "full")
    assert sizes(tmp_path / "full") == {"train": (6513, 130_260), "val": (497, 9940), "test": (2990, 59_800)}


def full_msvd(source, test):
    clips = [f"clip{n}_0_9" for n in range(1970)]
    write(source / "AllVideoDescriptions.txt", "".join(f"{clip} a dog\n{clip} a cat\n" for clip in clips))
    for split, part in (("train", clips[:1200]), ("val", clips[1200:1300]), ("test", clips[1300 : 1300 + test])):
        write(source / f"{split}_list.txt", "\n".join(part))


def full_didemo(source, test):
    start = 0
    for split, count in (("train", 8395), ("val", 1065), ("test", 1004)):
        videos = [f"{n}@N0_1_a.mov" for n in range(start, start + count)]
        moments = [{"video": video, "description": text} for video in videos for text in ("a cat", "it leaves")]
        write(source / f"{split}_data.json", moments)
        start += count
    write(source / "test_list.txt", "\n".join(videos[:test]))


def didemo_as_published(source):
    """Files of the authors' release: 116 + 29 + 33 of its videos occur under a second name, with another ending."""
    start = 0
    for split, count, twice in (("train", 8395, 116), ("val", 1065, 29), ("test", 1004, 33)):
        moments = []
        for number in range(count):
            name, fields = f"{start + number}@N0_1_a", {"times": [[0, 0], [1, 1]], "num_segments": 6}
            moments.append({"video": f"{name}.mov", "description": "a cat", **fields})
            moments.append(
                {"video": f"{name}.{'mp4' if number < twice else 'mov'}", "description": "it runs", **fields}
            )
        write(source / f"{split}_data.json", moments)
        start += count


@pytest.mark.parametrize("lists", [False, True])
def test_two_names_of_a_didemo_video_are_in_one_split(tmp_path, lists):
    for split, video in (("train", "a@N0_1_x.mov"), ("val", "b@N0_1_x.mov"), ("test", "a@N0_1_x.mp4")):
        write(tmp_path / "downloads" / f"{split}_data.json", [{"video": video, "description": "a cat"}])
        if lists:
            write(tmp_path / "downloads" / f"{split}_list.txt", video)
    with pytest.raises(ValueError, match="a@N0_1_x is in train and in test, expected it in one of them"):
        convert("didemo", tmp_path / "downloads", tmp_path / "out", any_size=True)
    assert not (tmp_path / "out").exists()


def test_didemo_as_its_authors_published_it(tmp_path, capsys, caplog):
    didemo_as_published(tmp_path / "downloads")
    convert("didemo", tmp_path / "downloads", tmp_path / "out")
    assert sizes(tmp_path / "out") == {"train": (8395, 8395), "val": (1065, 1065), "test": (1004, 1004)}
    printed = capsys.readouterr().out
    assert "test.json: 1004 videos, 1004 captions (the authors' release and CLIP4Clip's list)" in printed
    assert "1037 names are 1004 videos, because 33 names differ" in caplog.text
    first = load_captions(tmp_path / "out" / "val.json")[0]
    assert first == ("8395@N0_1_a.mov", ("a cat it runs",))


def test_didemo_counted_by_file_names(tmp_path, capsys):
    start = 0
    for split, count in (("train", 8511), ("val", 1094), ("test", 1037)):
        moments = [{"video": f"{start + n}.mov", "description": "a cat"} for n in range(count)]
        write(tmp_path / "downloads" / f"{split}_data.json", moments)
        start += count
    convert("didemo", tmp_path / "downloads", tmp_path / "out")
    assert sizes(tmp_path / "out") == {"train": (8511, 8511), "val": (1094, 1094), "test": (1037, 1037)}
    assert "1037 captions (the authors' release, counted by file names)" in capsys.readouterr().out


def full_msvd_qa(source, test):
    start = 1
    for split, count, asked in (("train", 1200, 30_933), ("val", 250, 6415), ("test", 520, test)):
        questions = [QUESTION | {"video_id": start + n % count, "id": n} for n in range(asked)]
        write(source / f"{split}_qa.json", questions)
        start += count
    write(source / "youtube_mapping.txt", "".join(f"clip{n}_0_9 vid{n}\n" for n in range(1, 1971)))


@pytest.mark.parametrize(
    "name, download, counts, other, message",
    [
        (
            "msvd",
            full_msvd,
            [670],
            669,
            r"msvd, test: 669 videos and 1338 captions .*, expected 670 videos \(the usual split\); --any-size",
        ),
        (
            "didemo",
            full_didemo,
            [1004, 1003],
            1002,
            r"test: 1002 videos .*, expected 1004 videos \(.*\) or 1003 .* or 1037 videos \(.*\); --any",
        ),
        (
            "msvd-qa",
            full_msvd_qa,
            [13_157],
            13_156,
            r"13156 captions or questions, expected 520 videos and 13157 .* \(",
        ),
    ],
)
def test_the_other_data_sets_have_their_published_sizes(tmp_path, name, download, counts, other, message):
    for count in counts:
        download(tmp_path / "downloads", count)
        convert(name, tmp_path / "downloads", tmp_path / "out")
    assert len(list((tmp_path / "out").glob("*.json"))) == 3
    download(tmp_path / "downloads", other)
    with pytest.raises(ValueError, match=message):
        convert(name, tmp_path / "downloads", tmp_path / "again")


def test_another_size_is_refused_with_both_numbers(full_size, tmp_path):
    data = json.loads((full_size / "MSRVTT_data.json").read_text())
    data["sentences"] = data["sentences"][20:]
    write(full_size / "MSRVTT_data.json", data)
    message = (
        "msrvtt-1ka, train: 8999 videos and 179980 captions or questions, expected 9000 videos and 180000 captions or "
        r"questions \(all but the 1k-A test\); --any"
    )
    with pytest.raises(ValueError, match=message):
        convert("msrvtt-1ka", full_size, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    convert("msrvtt-1ka", full_size, tmp_path / "out", any_size=True)
    assert sizes(tmp_path / "out")["train"] == (8999, 179_980)


@pytest.fixture
def small(tmp_path):
    videos = [{"video_id": f"video{n}", "split": "train"} for n in range(20)]
    sentences = [{"video_id": f"video{n}", "caption": f"number {n}"} for n in range(20)]
    write(tmp_path / "small" / "MSRVTT_data.json", {"videos": videos, "sentences": sentences})
    write(tmp_path / "small" / "MSRVTT_JSFUSION_test.csv", "video_id,sentence\nvideo0,a car\nvideo1,a dog\n")
    return tmp_path / "small"


def names(path):
    return [clip.video for clip in load_captions(path)]


def test_held_out_videos_are_always_the_same(small, tmp_path):
    convert("msrvtt-1ka", small, tmp_path / "a", hold_out=4, any_size=True)
    data = json.loads((small / "MSRVTT_data.json").read_text())
    write(small / "MSRVTT_data.json", data | {"sentences": data["sentences"][::-1]})
    convert("msrvtt-1ka", small, tmp_path / "b", hold_out=4, any_size=True)
    held = names(tmp_path / "a" / "val.json")
    assert len(held) == 4 and set(held) == set(names(tmp_path / "b" / "val.json"))
    train = names(tmp_path / "a" / "train.json")
    assert len(train) == 14 and not set(train) & set(held)
    for wrong in (18, -1):
        with pytest.raises(ValueError, match=f"hold_out is {wrong}, expected less than the 18 training videos"):
            convert("msrvtt-1ka", small, tmp_path / "c", hold_out=wrong, any_size=True)


def test_a_data_set_with_a_validation_split_holds_none_out(tmp_path):
    write(tmp_path / "MSRVTT_data.json", MSRVTT)
    with pytest.raises(ValueError, match="msrvtt-full has a validation split of its own"):
        convert("msrvtt-full", tmp_path, tmp_path / "out", hold_out=1, any_size=True)


def test_names_are_those_of_the_files_that_are_there(small, tmp_path, caplog):
    folder = tmp_path / "videos"
    for number in range(19):
        write(folder / ("TrainVal" if number else ".") / f"video{number}.{'avi' if number == 3 else 'mp4'}", b"film")
    convert("msrvtt-1ka", small, tmp_path / "out", videos=folder, any_size=True)
    assert names(tmp_path / "out" / "test.json") == ["video0.mp4", "TrainVal/video1.mp4"]
    train = names(tmp_path / "out" / "train.json")
    assert "TrainVal/video3.avi" in train and len(train) == 17
    assert all((folder / video).is_file() for video in train)
    assert "17 videos; 1 have no file in" in caplog.text and "the first is video19.mp4" in caplog.text
    with pytest.raises(ValueError, match=r"train: 17 videos .*, expected 9000.*; 1 have no file .* video19.mp4; --any"):
        convert("msrvtt-1ka", small, tmp_path / "again", videos=folder)
    write(folder / "other" / "video2.mkv", b"film")
    (folder / "TrainVal" / "video2.mp4").rename(folder / "TrainVal" / "video2.webm")
    with pytest.raises(ValueError, match="holds TrainVal/video2.webm and other/video2.mkv for video2.mp4"):
        convert("msrvtt-1ka", small, tmp_path / "again", videos=folder, any_size=True)


def test_wrong_folders_are_named(small, tmp_path):
    with pytest.raises(ValueError, match="nowhere: no such folder, expected one that msvd's files"):
        convert("msvd", tmp_path / "nowhere", tmp_path / "out")
    with pytest.raises(ValueError, match="nowhere: no such folder, expected one that holds the videos"):
        convert("msrvtt-1ka", small, tmp_path / "out", videos=tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="train: 0 videos .*, expected at least 1 video; 18 have no file in .*empty"):
        convert("webvid", webvid(tmp_path / "webvid", 18), tmp_path / "out", videos=tmp_path / "empty")


def test_questions_are_converted_and_splits_share_no_video(tmp_path):
    for number, split in enumerate(("train", "val", "test")):
        write(tmp_path / f"{split}_qa.json", [QUESTION | {"id": number, "video_id": number}])
    with pytest.raises(
        ValueError, match="msrvtt-qa, train: 1 videos and 1 captions or questions, expected 6513 videos and 158581 capt"
    ):
        convert("msrvtt-qa", tmp_path, tmp_path / "out")
    convert("msrvtt-qa", tmp_path, tmp_path / "out", any_size=True)
    (question,) = load_questions(tmp_path / "out" / "qa_test.json")
    assert question == ("video2.mp4", "what is a man on?", "couch", 2)
    write(tmp_path / "test_qa.json", [QUESTION | {"video_id": 0}])
    with pytest.raises(ValueError, match="video0 is in train and in test, expected it in one of them"):
        convert("msrvtt-qa", tmp_path, tmp_path / "again", any_size=True)
    assert not (tmp_path / "again").exists()


def test_every_data_set_has_a_row_in_the_docs():
    page = (Path(__file__).parents[2] / "docs" / "data.md").read_text("utf-8")
    assert re.findall(r"^\| `([^`]+)` \|", page, re.MULTILINE)[: len(DATA_SETS)] == list(DATA_SETS)
