"""Data that changed under the same names are noticed, and data that were only copied are known again."""

import os
import random
import shutil

import numpy as np
import pytest

from stgt.data.fingerprint import Fingerprint, data_differences
from stgt.integrity import DamagedError

NAMES = ["b.mp4", "a.mp4", "c/d.mp4"]


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "videos"
    (folder / "c").mkdir(parents=True)
    for number, name in enumerate(NAMES):
        (folder / name).write_bytes(bytes([number]) * 100)
        os.utime(folder / name, ns=(0, 1_700_000_000_123_456_789 + number * 10**9))
    (tmp_path / "train.json").write_text("[]")
    return folder


def take(root, names=NAMES, decoder="PyAV 18", **options):
    files = {"data.train": root.parent / "train.json"}
    return Fingerprint.take(files, names, root, decoder=decoder, **options)


def test_the_same_data_does_not_differ_even_after_writing_and_reading(root, tmp_path):
    for contents in (False, True):
        before = take(root, contents=contents)
        before.save(tmp_path / "data.fingerprint")
        again = Fingerprint.load(tmp_path / "data.fingerprint")
        assert data_differences(take(root, contents=contents), again) == []
        assert again.summary() == before.summary() and again.names == sorted(NAMES)


def test_an_empty_fingerprint_and_odd_names_are_written_and_read(root, tmp_path):
    for names in ([], ["\udcff.mp4", "a\0b.mp4", "naïve\n.mp4"]):
        before = take(root, names)
        before.save(tmp_path / "data.fingerprint")
        again = Fingerprint.load(tmp_path / "data.fingerprint")
        assert again.names == sorted(names) and data_differences(before, again) == []


def test_each_kind_of_difference_is_named(root):
    before = take(root)
    (root.parent / "train.json").write_text("[1]")
    (root / "a.mp4").write_bytes(b"longer" * 100)
    os.utime(root / "b.mp4", ns=(0, 10**18))
    (root / "c" / "d.mp4").unlink()
    lines = data_differences(take(root, decoder="PyAV 19"), before)
    assert lines[0] == "decoder: PyAV 19, there PyAV 18"
    assert lines[1].startswith("data.train: SHA-256 ") and ", there SHA-256 " in lines[1]
    assert lines[2].startswith("a.mp4: 600 bytes of ") and ", there 100 bytes of " in lines[2]
    assert lines[3].startswith("b.mp4: 100 bytes of ") and lines[4].startswith("c/d.mp4: no file, there 100 bytes of ")
    assert len(lines) == 5
    assert len(data_differences(take(root, decoder="PyAV 19"), before, absent_is_same=True)) == 4


def test_videos_that_are_left_out_or_new_are_counted(root):
    lines = data_differences(take(root, ["a.mp4", "e.mp4"]), take(root))
    assert lines == [
        "videos: 1 of 2 are new, the first is e.mp4",
        "videos: 2 of 3 are left out, the first is b.mp4",
    ]


def test_two_videos_that_changed_places_are_noticed(root):
    before = take(root)
    (root / "a.mp4").rename(root / "x")
    (root / "b.mp4").rename(root / "a.mp4")
    (root / "x").rename(root / "b.mp4")
    assert [line.split(":")[0] for line in data_differences(take(root), before)] == ["a.mp4", "b.mp4"]


def test_a_long_list_is_cut(root):
    for number in range(12):
        (root / f"{number}.mp4").touch()
    names = [f"{number}.mp4" for number in range(12)]
    before = take(root, names)
    for name in names:
        (root / name).write_bytes(b"more")
    lines = data_differences(take(root, names), before)
    assert len(lines) == 9 and lines[-1] == "and 4 more videos"


def test_a_copy_is_known_by_its_contents_where_they_were_hashed(root, tmp_path):
    hashed, unhashed = take(root, contents=True), take(root)
    copy = tmp_path / "copy"
    shutil.copytree(root, copy, copy_function=shutil.copyfile)
    now = Fingerprint.take({"data.train": tmp_path / "train.json"}, NAMES, copy, decoder="PyAV 18")
    assert len(data_differences(now, unhashed)) == 3
    completed = now.completed(hashed, copy)
    assert data_differences(completed, hashed) == [] and np.array_equal(completed.hashes, hashed.hashes)
    (copy / "a.mp4").write_bytes(b"x" * 100)
    assert [line.split(":")[0] for line in data_differences(now.completed(hashed, copy), hashed)] == ["a.mp4"]


def test_hashes_of_contents_are_kept_when_contents_are_not_read_again(root):
    hashed = take(root, contents=True)
    assert np.array_equal(take(root).completed(hashed, root).hashes, hashed.hashes)


def test_contents_that_changed_behind_the_same_size_and_time_are_found_on_request_only(root):
    before, hashed = take(root), take(root, contents=True)
    time = (root / "a.mp4").stat().st_mtime_ns
    (root / "a.mp4").write_bytes(b"y" * 100)
    os.utime(root / "a.mp4", ns=(0, time))
    assert data_differences(take(root), before) == []
    assert [line.split(":")[0] for line in data_differences(take(root, contents=True), hashed)] == ["a.mp4"]


def test_a_copy_that_lost_the_fraction_of_a_second_counts_as_the_same(root):
    before = take(root)
    for name in NAMES:
        os.utime(root / name, ns=(0, (root / name).stat().st_mtime_ns // 10**9 * 10**9))
    assert data_differences(take(root), before) == []


def test_a_flipped_byte_in_the_file_is_noticed_wherever_it_is(root, tmp_path):
    path = tmp_path / "data.fingerprint"
    take(root, contents=True).save(path)
    whole, draw = path.read_bytes(), random.Random(0)
    header = 8 + int.from_bytes(whole[:8], "little")
    for place in [*range(8), *draw.sample(range(8, header), 60), *draw.sample(range(header, len(whole)), 60)]:
        if whole[place : place + 1] == b" ":  # the header's padding, which says nothing
            continue
        damaged = bytearray(whole)
        damaged[place] ^= 1 << draw.randrange(8)
        path.write_bytes(damaged)
        with pytest.raises(DamagedError, match="data.fingerprint"):
            Fingerprint.load(path)
