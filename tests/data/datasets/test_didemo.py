"""DiDeMo's own files, small ones of each format."""

import pytest
from helpers.published import write

from stgt.data.datasets.didemo import read_didemo


def test_didemo_sentences_become_a_paragraph(tmp_path):
    moments = [
        {"video": "a@N0.avi", "description": "a cat appears", "times": [[0, 0]], "annotation_id": 1, "num_segments": 6},
        {"video": "b.mov", "description": "rain"},
        {"video": "a@N0.avi", "description": "the cat leaves "},
    ]
    for split in ("train", "val", "test"):
        write(tmp_path / f"{split}_data.json", moments)
    write(tmp_path / "val_list.txt", "b.mov\n")
    splits = read_didemo(tmp_path)
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
    splits = read_didemo(tmp_path)
    joined = [("a@N0_1_x.mov", ("a cat appears it sleeps it leaves",)), ("b@N0_2_y.", ("rain snow",))]
    assert splits["train"] == splits["val"] == joined
    assert "val_data.json: 4 names are 2 videos, because 2 names differ" in caplog.text
    assert splits["test"] == [("a@N0_1_x.mp4", ("it sleeps",)), ("b@N0_2_y.", ("rain",))]
    write(tmp_path / "test_list.txt", "a@N0_1_x\n")
    with pytest.raises(ValueError, match="a@N0_1_x in line 1 is a@N0_1_x.mov or a@N0_1_x.mp4, expected"):
        read_didemo(tmp_path)


def test_a_malformed_sentence_is_named(tmp_path):
    path = write(tmp_path / "train_data.json", [{"video": 3, "description": "a"}])
    with pytest.raises(ValueError, match="no text 'video'") as error:
        read_didemo(tmp_path)
    assert str(path) in str(error.value)
