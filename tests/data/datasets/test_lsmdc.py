"""LSMDC's own tables, small ones."""

import pytest
from helpers.published import write

from stgt.data.datasets.lsmdc import read_lsmdc

CLIP = "1001_American_Beauty_00.00.51.926-00.00.54.129"


def test_lsmdc(tmp_path):
    row = "\t".join([CLIP, "00.00.51.926", "00.00.54.129", "0", "1", 'SOMEONE says "no'])
    for file in ("LSMDC16_annos_training.csv", "LSMDC16_annos_val.csv", "LSMDC16_challenge_1000_publictect.csv"):
        write(tmp_path / file, row + "\t\r\n")
    clips = [(f"1001_American_Beauty/{CLIP}.avi", ('SOMEONE says "no',))]
    assert read_lsmdc(tmp_path) == {"train": clips, "val": clips, "test": clips}
    (tmp_path / "LSMDC16_challenge_1000_publictect.csv").rename(tmp_path / "LSMDC16_annos_test.csv")
    assert read_lsmdc(tmp_path)["test"] == clips


def test_blank_lines_are_no_clips(tmp_path):
    row = "\t".join([CLIP, "0", "1", "0", "1", "no"])
    for file in ("LSMDC16_annos_training.csv", "LSMDC16_annos_val.csv", "LSMDC16_challenge_1000_publictect.csv"):
        write(tmp_path / file, f"{row}\n\n \r\n")
    clips = [(f"1001_American_Beauty/{CLIP}.avi", ("no",))]
    assert read_lsmdc(tmp_path) == {"train": clips, "val": clips, "test": clips}


@pytest.mark.parametrize(("row", "count"), [("clip\t0\t1\n", 3), ("clip\t0\t1\t0\t1\tHe says\tno.\n", 7)])
def test_a_row_of_another_length_is_named(tmp_path, row, count):
    path = write(tmp_path / "LSMDC16_annos_training.csv", row)
    with pytest.raises(ValueError, match=f"line 1 has {count} columns, expected 6") as error:
        read_lsmdc(tmp_path)
    assert str(path) in str(error.value)


def test_a_header_is_no_clip(tmp_path):
    path = write(tmp_path / "LSMDC16_annos_training.csv", "clip\tstart\tend\tfrom\tto\tsentence\n")
    with pytest.raises(ValueError, match="the clip in line 1 is 'clip', expected <film>_<start>-<end>") as error:
        read_lsmdc(tmp_path)
    assert str(path) in str(error.value)
