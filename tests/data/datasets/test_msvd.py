"""MSVD's own files, small ones of each format."""

import pickle

import pytest
from helpers.published import write

from stgt.data.datasets.msvd import read_msvd


@pytest.mark.parametrize("form", ["AllVideoDescriptions.txt", "raw-captions.json"])
def test_msvd(tmp_path, form):
    lines = (
        "# comments\r\n\r\nmv89_3_4 A bird bathes.\nabc_0_9 a dog runs\nmv89_3_4 a bird\nxyz_1_2 rain\nnot_listed a\n"
    )
    words = {"mv89_3_4": [["A", "bird", "bathes."], "a bird"], "abc_0_9": ["a dog runs"], "xyz_1_2": [["rain"]]}
    write(tmp_path / form, lines if form.endswith("txt") else words)
    for split, clip in (("train", "mv89_3_4"), ("val", "xyz_1_2"), ("test", "abc_0_9")):
        write(tmp_path / f"{split}_list.txt", f"{clip}\n")
    assert read_msvd(tmp_path) == {
        "train": [("mv89_3_4.avi", ("A bird bathes.", "a bird"))],
        "val": [("xyz_1_2.avi", ("rain",))],
        "test": [("abc_0_9.avi", ("a dog runs",))],
    }
    write(tmp_path / "val_list.txt", "xyz_1_2\nxyz_1_2\n")
    with pytest.raises(ValueError, match="val_list.txt: xyz_1_2 in line 2 is there twice"):
        read_msvd(tmp_path)
    write(tmp_path / "val_list.txt", "nobody_0_1\n")
    with pytest.raises(ValueError, match="val_list.txt: nobody_0_1 in line 1 has no caption"):
        read_msvd(tmp_path)


def test_a_pickle_is_never_opened(tmp_path):
    class Trap:
        def __reduce__(self):
            return (tmp_path.joinpath("sprung").touch, ())

    write(tmp_path / "raw-captions.pkl", pickle.dumps(Trap()))
    with pytest.raises(ValueError, match="raw-captions.pkl is a pickle.*json.dump"):
        read_msvd(tmp_path)
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize(
    "content, message",
    [
        ({"a": ["  "]}, "a.avi has an empty caption"),
        ({"a": "a bird"}, "'a' has 'a bird', expected a list"),
        ({"a": [["b", 3]]}, "'a' has the caption .*expected a text or its words"),
        ('{"a": ["b"], "a": ["c"]}', 'an object that has the key "a" twice'),
    ],
)
def test_malformed_captions_are_named(tmp_path, content, message):
    path = write(tmp_path / "raw-captions.json", content)
    with pytest.raises(ValueError, match=message) as error:
        read_msvd(tmp_path)
    assert str(path) in str(error.value)
