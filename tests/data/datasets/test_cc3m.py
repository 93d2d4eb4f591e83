"""CC3M's own files, small ones of each format."""

import zlib

import pytest
from helpers.published import write

from stgt.data.annotations import load_captions
from stgt.data.convert import convert


def test_cc3m_from_its_table_and_the_downloaders_names(tmp_path):
    lines = [("a dog", "http://a/1.jpg"), ("a cat", "http://b/2"), ("gone", "http://c/3")]
    write(tmp_path / "source" / "Train_GCC-training.tsv", "".join(f"{c}\t{url}\n" for c, url in lines))
    first, second = (zlib.crc32(url.encode()) for _, url in lines[:2])
    write(tmp_path / "images" / "training" / str(first), b"image")
    write(tmp_path / "images" / "training" / f"{second}.png", b"image")
    convert("cc3m", tmp_path / "source", tmp_path / "out", videos=tmp_path / "images")
    assert load_captions(tmp_path / "out" / "train.json") == [
        (f"training/{first}", ("a dog",)),
        (f"training/{second}.png", ("a cat",)),
    ]
    write(tmp_path / "source" / "Train_GCC-training.tsv", "a dog http://a\n")
    with pytest.raises(ValueError, match="Train_GCC-training.tsv: line 1 has 1 columns, expected 2"):
        convert("cc3m", tmp_path / "source", tmp_path / "out")


def test_cc3m_as_img2dataset_left_it(tmp_path):
    folder = tmp_path / "cc3m"
    for key, caption in (("000000000", "a dog"), ("000000002", "a cat")):
        write(folder / "00000" / f"{key}.jpg", b"image")
        write(
            folder / "00000" / f"{key}.json", {"caption": caption, "url": "http://a", "key": key, "status": "success"}
        )
    write(folder / "00000" / "000000000.txt", "a dog")
    write(folder / "00000_stats.json", {"count": 2})
    convert("cc3m", folder, tmp_path / "out", videos=folder)
    assert load_captions(tmp_path / "out" / "train.json") == [
        ("00000/000000000.jpg", ("a dog",)),
        ("00000/000000002.jpg", ("a cat",)),
    ]
    write(folder / "00000" / "000000002.json", {"url": "http://a"})
    with pytest.raises(ValueError, match="000000002.json: 'caption' is None"):
        convert("cc3m", folder, tmp_path / "out")
    with pytest.raises(ValueError, match=r"neither \*.tsv nor images"):
        convert("cc3m", tmp_path / "out", tmp_path / "again")


def test_a_header_is_no_image(tmp_path):
    """Img2dataset's instructions for CC3M put one there."""
    write(tmp_path / "Train_GCC-training.tsv", "caption\turl\na dog\thttp://a/1.jpg\n")
    with pytest.raises(ValueError, match="tsv: the address in line 1 is 'url', expected one with ://"):
        convert("cc3m", tmp_path, tmp_path / "out")


def test_blank_lines_are_no_images(tmp_path):
    write(tmp_path / "Train_GCC-training.tsv", "a dog\thttp://a/1.jpg\n\n\r\n")
    convert("cc3m", tmp_path, tmp_path / "out")
    assert [clip.captions for clip in load_captions(tmp_path / "out" / "train.json")] == [("a dog",)]
