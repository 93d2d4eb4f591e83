"""Checksums of files and rows notice every flipped byte, and tensors that are not finite are named."""

import random
import subprocess

import pytest
import torch

from stgt.integrity import (
    CHECKSUMS,
    DamagedError,
    checksum_lines,
    damaged_row,
    nonfinite,
    read_sealed,
    require_finite,
    require_finite_rows,
    row_digests,
    sealed,
    verify_checksums,
)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "a.bin").write_bytes(bytes(range(256)))
    (tmp_path / "deep" / "b c.json").write_text('{"naïve": 1}', "utf-8")
    (tmp_path / CHECKSUMS).write_text(checksum_lines(tmp_path), "utf-8")
    return tmp_path


def test_an_unchanged_folder_passes_here_and_with_sha256sum(folder):
    verify_checksums(folder)
    assert subprocess.run(["sha256sum", "-c", "--strict", CHECKSUMS], cwd=folder).returncode == 0


def test_a_flipped_byte_in_any_file_is_noticed_wherever_it_is(folder):
    draw = random.Random(0)
    for name in ("a.bin", "deep/b c.json", CHECKSUMS):
        path = folder / name
        whole = path.read_bytes()
        for place in draw.sample(range(len(whole)), min(40, len(whole))):
            damaged = bytearray(whole)
            damaged[place] ^= draw.randrange(1, 256)
            path.write_bytes(damaged)
            with pytest.raises(DamagedError, match=str(folder)):
                verify_checksums(folder)
        path.write_bytes(whole)
    verify_checksums(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: (folder / "a.bin").unlink(), "a.bin: there is no such file, but its checksum"),
        (lambda folder: (folder / CHECKSUMS).write_text(""), "the list of checksums is damaged"),
    ],
)
def test_missing_files_are_named(change, message, folder):
    change(folder)
    with pytest.raises(DamagedError, match=message):
        verify_checksums(folder)


def test_a_json_file_with_its_own_checksum_notices_every_flipped_byte(tmp_path):
    path, values, draw = (
        tmp_path / "state.json",
        {"format": 2, "deep": {"a": [1.5, None]}, "naïve": "ü"},
        random.Random(0),
    )
    path.write_text(sealed(values), "utf-8")
    assert read_sealed(path) == (values, True)
    whole = path.read_bytes()
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ draw.randrange(1, 256)]) + whole[place + 1 :])
        try:
            found, has_checksum = read_sealed(path)
        except DamagedError:
            continue
        assert not has_checksum and "format" in found  # the format tells a reader that there was a checksum


@pytest.mark.parametrize("text", ["", "[1]", "{", "[" * 10**5])
def test_a_file_that_is_not_a_json_object_is_refused(text, tmp_path):
    (tmp_path / "state.json").write_text(text)
    with pytest.raises(DamagedError, match="state.json: (not JSON|holds|lists or objects are nested)"):
        read_sealed(tmp_path / "state.json")
    (tmp_path / "state.json").write_text('{"a": 1}')
    assert read_sealed(tmp_path / "state.json") == ({"a": 1}, False)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64, torch.bool])
def test_a_digest_is_of_one_row_with_its_shape_and_dtype(dtype):
    rows = torch.arange(12).reshape(3, 2, 2).to(dtype)
    digests = row_digests(rows)
    assert digests.shape == (3, 32) and damaged_row(rows, digests) is None
    assert torch.equal(row_digests(rows[1:2]), digests[1:2])
    changed = rows.clone()
    changed[2, 1, 1] = 0
    assert damaged_row(changed, digests) == 2
    assert damaged_row(rows.reshape(3, 4), digests) == 0
    assert damaged_row(rows[:2], digests) == 0
    assert row_digests(rows[:0]).shape == (0, 32) and damaged_row(rows[:0], row_digests(rows[:0])) is None


def test_tensors_that_are_not_finite_are_named():
    tensors = {"good": torch.ones(2), "ids": torch.arange(3), "nan": torch.tensor([0.0, float("nan")])}
    tensors["inf"] = torch.tensor([float("inf")], dtype=torch.bfloat16)
    assert nonfinite(tensors) == ["inf", "nan"]
    with pytest.raises(ValueError, match="weights: inf, nan hold NaN or infinite numbers"):
        require_finite(tensors, "weights")
    require_finite({"good": torch.ones(2)}, "weights")
    rows = torch.tensor([[1.0, 2.0], [0.0, float("inf")]])
    with pytest.raises(ValueError, match="b.mp4: its tokens hold NaN or infinite numbers"):
        require_finite_rows(rows, ["a.mp4", "b.mp4"], "its tokens")
    require_finite_rows(rows[:1], ["a.mp4"], "its tokens")
