"""The own files of MSRVTT-QA and MSVD-QA, small ones."""

import pytest
from helpers.published import QUESTION, write

from stgt.data.datasets.msrvtt_qa import read_msrvtt_qa
from stgt.data.datasets.msvd_qa import read_msvd_qa


def test_msrvtt_qa(tmp_path):
    for split in ("train", "val", "test"):
        write(tmp_path / f"{split}_qa.json", [QUESTION])
    assert read_msrvtt_qa(tmp_path)["val"] == [("video6513.mp4", "what is a man on?", "couch", 158581)]


def test_msvd_qa_takes_its_clips_from_the_mapping(tmp_path):
    for number, split in enumerate(("train", "val", "test"), start=1):
        write(tmp_path / f"{split}_qa.json", [{k: v for k, v in QUESTION.items() if k != "category_id"}
                                             | {"video_id": number}])  # fmt: skip
    write(tmp_path / "youtube_mapping.txt", "-4wsuPCjDBc_5_15 vid1\n-7KMZQEsJW4_205_208 vid2\n\nabc_0_9 vid3\n")
    splits = read_msvd_qa(tmp_path)
    assert [q.video for q in splits["train"]] == ["-4wsuPCjDBc_5_15.avi"] and [q.video for q in splits["test"]] == [
        "abc_0_9.avi"
    ]
    write(tmp_path / "youtube_mapping.txt", "-4wsuPCjDBc_5_15 vid1\n")
    with pytest.raises(ValueError, match="youtube_mapping.txt: no vid2"):
        read_msvd_qa(tmp_path)
    write(tmp_path / "youtube_mapping.txt", "a vid1\nb vid1\n")
    with pytest.raises(ValueError, match="youtube_mapping.txt: line 2 is 'b vid1'"):
        read_msvd_qa(tmp_path)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"video_id": "x"}, "entry 0 .* a number 'video_id'"),
        ({"video_id": False}, "entry 0 .* a number 'video_id'"),
        ({"id": True}, "entry 0 .* a number 'id'"),
        ({"answer": ""}, "no text 'answer'"),
    ],
)
def test_malformed_questions_are_named(tmp_path, change, message):
    path = write(tmp_path / "train_qa.json", [QUESTION | change])
    with pytest.raises(ValueError, match=message) as error:
        read_msrvtt_qa(tmp_path)
    assert str(path) in str(error.value)


def test_an_id_that_occurs_twice_is_named(tmp_path):
    path = write(tmp_path / "train_qa.json", [QUESTION, QUESTION | {"id": 3}, QUESTION | {"question": "who?"}])
    with pytest.raises(ValueError, match="entry 2 has the id 158581, expected one that no earlier entry has") as error:
        read_msrvtt_qa(tmp_path)
    assert str(path) in str(error.value)
