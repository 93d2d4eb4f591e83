"""VIDAL's own file, a small one."""

import pytest
from helpers.published import write

from stgt.data.annotations import load_captions
from stgt.data.convert import convert


def test_the_polished_caption_comes_first(tmp_path):
    facts = {"folder": "coco_vat_9", "mplug": "This video describes divers.", "polish_mplug": "divers are seen.",
             "ofa": [" a man in a suit"], "sound_mplug": "splashing", "raw": "DIVE #sea"}  # fmt: skip
    unpolished = {"folder": "new", "mplug": "a dog"}
    write(tmp_path / "id2title_folder_caps.json", {"ImkVYKWqlDU": facts, "abc": unpolished})
    convert("vidal", tmp_path, tmp_path / "out")
    assert load_captions(tmp_path / "out" / "train.json") == [
        ("coco_vat_9/ImkVYKWqlDU.mp4", ("divers are seen.",)),
        ("new/abc.mp4", ("a dog",)),
    ]
    write(tmp_path / "id2title_folder_caps.json", {"abc": {"folder": "new", "ofa": []}})
    with pytest.raises(ValueError, match="'abc' is .*expected texts 'folder' and 'polish_mplug'"):
        convert("vidal", tmp_path, tmp_path / "out")
    write(tmp_path / "id2title_folder_caps.json", {"abc": {"folder": "", "mplug": "a dog"}})
    with pytest.raises(ValueError, match="caps.json: a video is '/abc.mp4', expected names for it and for its folders"):
        convert("vidal", tmp_path, tmp_path / "out")
