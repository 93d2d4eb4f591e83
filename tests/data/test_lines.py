"""Lines of text files."""

import json

import pytest
from helpers.published import ODD_LINE_ENDS, write

from stgt.data.annotations import load_captions
from stgt.data.lines import read_lines
from stgt.structure import read_json


def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path):
    path = write(tmp_path / "bom.json", b'\xef\xbb\xbf{"a":\n1}')
    assert list(read_lines(path)) == ['{"a":\n', "1}"] and read_json(path) == {"a": 1}


def test_a_line_ends_with_a_line_feed_alone(tmp_path):
    path = write(tmp_path / "lines.txt", f"{ODD_LINE_ENDS}\r\nnext\n".encode())
    assert list(read_lines(path)) == [f"{ODD_LINE_ENDS}\r\n", "next\n"]


def test_a_caption_may_hold_such_characters(tmp_path):
    entries = [{"video": "a.mp4", "caption": ODD_LINE_ENDS}]
    write(tmp_path / "captions.json", json.dumps(entries, ensure_ascii=False))
    assert load_captions(tmp_path / "captions.json") == [("a.mp4", (ODD_LINE_ENDS,))]


def test_json_lines_are_refused_by_their_name(tmp_path):
    path = write(tmp_path / "train.jsonl", '{"video": "a.mp4", "caption": "a"}\n{"video": "b.mp4", "caption": "b"}\n')
    with pytest.raises(ValueError, match=r"expected one value; a file with a value in each line \(JSON Lines\) is not"):
        load_captions(path)
