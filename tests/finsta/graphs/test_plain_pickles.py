"""Pickles of plain values and arrays are read, run no code, and take no more memory than their size allows."""

import _codecs
import os
import pickle
import tracemalloc

import numpy as np
import pytest

from stgt.finsta.graphs.readers import unpickle
from stgt.finsta.graphs.readers.unpickle import unpickle_plain


class Runs:
    """An object whose pickle runs a command when it is opened."""

    def __reduce__(self):
        return os.mkdir, ("was-run",)


HARMFUL = {"runs": Runs(), "dtype": np.dtype("O"), "objects": np.array([None]), "strings": np.array(["text"])}


@pytest.mark.parametrize("harm", HARMFUL.values(), ids=HARMFUL)
def test_a_pickle_cannot_run_code(harm, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.pkl").write_bytes(pickle.dumps({"a": harm}))
    with pytest.raises(ValueError, match="a.pkl: it (names|has) .*, expected plain values and NumPy arrays"):
        unpickle_plain(tmp_path / "a.pkl", dict)
    assert not (tmp_path / "was-run").exists()


def test_a_pickle_cannot_change_the_functions_that_read_it(tmp_path):
    (tmp_path / "a.pkl").write_bytes(b"cnumpy.core.multiarray\nscalar\nN}S'changed'\nI1\ns\x86b.")
    with pytest.raises(ValueError, match="a.pkl: it sets attributes of a function, expected plain values"):
        unpickle_plain(tmp_path / "a.pkl", dict)
    assert not hasattr(unpickle._scalar, "changed")


def test_a_small_pickle_cannot_ask_for_much_memory(tmp_path):
    (tmp_path / "a.pkl").write_bytes(b"}r\xff\xff\xff\x01.")  # it puts the dict at place 2^25 of the memo
    tracemalloc.start()
    try:
        assert unpickle_plain(tmp_path / "a.pkl", dict) == {}
        assert tracemalloc.get_traced_memory()[1] < 2**24
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("shape", [(1000, 0), (1000, 1, 1, 1)])
def test_an_array_of_many_empty_rows_or_of_many_lists_is_refused(shape, tmp_path):
    (tmp_path / "a.pkl").write_bytes(pickle.dumps({"a": np.zeros(shape)}))
    message = rf"a.pkl: it has an array of shape \({', '.join(map(str, shape))}\), expected plain values"
    with pytest.raises(ValueError, match=message):
        unpickle_plain(tmp_path / "a.pkl", dict)


class Repeats:
    """An array of bytes that a file holds only once."""

    def __init__(self, data):
        self.data = data

    def __reduce__(self):
        return np.ndarray, ((0,),), (1, (len(self.data),), np.dtype("u1"), False, self.data)


class Copies(Repeats):
    """A copy of a text that a file holds only once."""

    def __reduce__(self):
        return _codecs.encode, (self.data, "latin1")


@pytest.mark.parametrize(("kind", "data"), [(Repeats, b"7" * 9000), (Copies, "7" * 9000)], ids=["arrays", "texts"])
def test_arrays_that_share_their_bytes_are_refused(kind, data, tmp_path):
    (tmp_path / "a.pkl").write_bytes(pickle.dumps([kind(data)]))
    assert unpickle_plain(tmp_path / "a.pkl", list) == [list(data) if kind is Repeats else data.encode()]
    (tmp_path / "a.pkl").write_bytes(pickle.dumps([kind(data) for _ in range(1000)]))
    with pytest.raises(ValueError, match="a.pkl: its arrays hold more values than the file has bytes, expected plain"):
        unpickle_plain(tmp_path / "a.pkl", list)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_arrays_and_numbers_of_any_pickle_protocol_are_read(protocol, tmp_path):
    value = {
        "a": np.arange(6.0).reshape(2, 3).T,
        "b": np.int64(3),
        "c": np.arange(3, dtype=">i2"),
        "d": np.zeros((0, 4)),
    }
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(value, protocol))
    found = unpickle_plain(tmp_path / "a.pkl", dict)
    assert found == {"a": [[0, 3], [1, 4], [2, 5]], "b": 3, "c": [0, 1, 2], "d": []}
    for dtype in (bool, np.uint8, np.float32, np.float64):
        (tmp_path / "a.pkl").write_bytes(pickle.dumps({"a": np.zeros(5000, dtype)}, protocol))
        assert unpickle_plain(tmp_path / "a.pkl", dict) == {"a": [0] * 5000}


def test_a_damaged_pickle_is_named(tmp_path):
    whole = pickle.dumps({"a": np.arange(600)})
    for data in (b"", b"text", whole[:-20], pickle.dumps([1])):
        (tmp_path / "a.pkl").write_bytes(data)
        with pytest.raises(ValueError, match="a.pkl: (it is no readable pickle|holds a list, expected a dict)"):
            unpickle_plain(tmp_path / "a.pkl", dict)
