"""Clips in tar shards are packed, found and read by their place in them, and a damaged shard costs its own samples."""

import io
import json
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from helpers.clips import grey, write_video
from helpers.items import make_items, same
from helpers.ranges import serving_ranges
from helpers.shards import write_shard
from PIL import Image

from stgt.data import loader
from stgt.data.annotations import load_videos, require_disjoint
from stgt.data.check import write_report
from stgt.data.errors import StoreError
from stgt.data.manifest.cache import open_manifest
from stgt.data.samples import collate
from stgt.data.shards import member as member_module
from stgt.data.shards.member import Member, opened, read_member
from stgt.data.text import Tokenizer
from stgt.data.video import VideoError, read_frames
from stgt.randomness import SeededItems

fsspec = pytest.importorskip("fsspec", reason="pip install fsspec aiohttp")
pd = pytest.importorskip("pandas", reason="pip install pandas")
webdataset = pytest.importorskip("webdataset", reason="pip install webdataset")

from stgt.data.shards.pack import pack, parse_size  # noqa: E402
from stgt.data.shards.scan import scan_shards  # noqa: E402

CAPTIONS = {
    "a.mp4": ["the first clip gets lighter", "one more caption"],
    "b.mkv": ["the second clip"],
    "sub/c.mp4": ["a clip in a folder, with a “quote”"],
    "d.mp4": ["the last clip"],
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    (folder / "videos" / "sub").mkdir(parents=True)
    for number, name in enumerate(CAPTIONS):
        write_video(folder / "videos" / name, [frame + number for frame in grey(6 + 7 * number)])
    entries = [{"video": name, "caption": texts} for name, texts in CAPTIONS.items()]
    (folder / "train.json").write_text(json.dumps(entries))
    return folder


@pytest.fixture(scope="module")
def packed(data):
    from stgt.cli.data import pack

    pack(data / "train.json", data / "packed", shard_size="11KB")
    return data / "packed"


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.train([text for texts in CAPTIONS.values() for text in texts], 100)


@pytest.fixture
def make(tokenizer):
    return lambda annotation, root, **options: make_items(annotation, root, **{"tokenizer": tokenizer} | options)


def test_packed_clips_give_the_same_items_as_their_files(make, data, packed):
    loose = SeededItems(make(data / "train.json", data / "videos"), 3)
    items = SeededItems(make(packed / "train.parquet", packed), 3)
    assert len(loose) == len(items) == 5
    assert all(same(loose[epoch, i], items[epoch, i], but=["path"]) for epoch in range(2) for i in range(5))
    assert items[0, 0]["path"] == str(packed / "train-000000.tar" / "000000000.mp4")
    places = [[(0, 4), (0, 1)], [(1, 2), (0, 0)]]
    read = list(loader.read_batches(items, places, workers=1, collate=collate))
    assert all(
        same(batch, collate([loose[place] for place in part]), but=["path"])
        for batch, part in zip(read, places, strict=True)
    )


def test_packed_shards_are_webdatasets_and_can_be_packed_again(data, packed, stgt):
    shards = sorted(map(str, packed.glob("*.tar")))
    assert len(shards) > 1 and all(Path(shard).stat().st_size <= 11000 for shard in shards)
    samples = [sample for shard in shards for sample in webdataset.WebDataset(shard, shardshuffle=False)]
    names = [*CAPTIONS]
    for number, (name, sample) in enumerate(zip(names, samples, strict=True)):
        assert sample["__key__"] == f"{number:09}"
        assert sample[Path(name).suffix[1:]] == (data / "videos" / name).read_bytes()
        assert json.loads(sample["json"]) == {"packed_from": name, "caption": CAPTIONS[name]}
    assert stgt("data", "pack", packed / "train.parquet", "--videos", packed, "--out", data / "again")[0] == 0
    (shard,) = (data / "again").glob("*.tar")
    again = open_manifest(data / "again" / "train.parquet")
    assert [texts for texts in again.said()] == [*CAPTIONS.values()]
    row = again.row(2)
    assert read_member(Member(str(shard), row.offset, row.size, "")) == (data / "videos" / names[2]).read_bytes()
    status, printed = stgt("data", "pack", data / "train.json", "--out", packed)
    assert status == 2 and "holds train.parquet already, expected a folder without shards of train" in printed


def test_a_clip_that_was_packed_for_training_and_for_validation_is_found(data, packed, tmp_path):
    name = [*CAPTIONS][2]
    (tmp_path / "val.json").write_text(json.dumps([{"video": name, "caption": "a clip of both splits"}]))
    pack(tmp_path / "val.json", data / "videos", tmp_path, shard_size=10**6)
    train = {"train": load_videos(packed / "train.parquet")}
    for val in ("val.json", "val.parquet"):
        with pytest.raises(ValueError, match=f"data.val: {name} is in val and in train, expected it in one of them"):
            require_disjoint({"val": load_videos(tmp_path / val)} | train, "data.val")
    require_disjoint({"val": [f"other-{name}"]} | train, "data.val")


@pytest.mark.parametrize("records", [{}, {"comment": "long " * 200}])
def test_a_member_whose_size_is_in_an_extended_header_is_read(tmp_path, records):
    """Tar files in PAX format have it there for members of 8 GiB and more, and 0 in the ordinary header."""
    path, contents = tmp_path / "0.tar", b"0123456789" * 100
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as shard:
        for name, more in (("first.mp4", {}), ("large.mp4", {"size": str(len(contents)), **records})):
            info = tarfile.TarInfo(name)
            info.size, info.pax_headers = len(contents), more
            shard.addfile(info, io.BytesIO(contents))
    with tarfile.open(path) as shard:
        place = shard.getmember("large.mp4").offset_data
    with open(path, "r+b") as file:
        file.seek(place - 512)
        header = bytearray(file.read(512))
        header[124:136] = b"0" * 11 + b"\0"
        header[148:156] = b" " * 8
        header[148:156] = b"%06o\0 " % sum(header)
        file.seek(place - 512)
        file.write(header)
    assert read_member(Member(str(path), place, len(contents), "large.mp4")) == contents
    with pytest.raises(VideoError, match="another shard is there: it has a member of 1000 bytes"):
        read_member(Member(str(path), place, len(contents) - 1, "large.mp4"))


def test_shards_of_others_are_not_replaced(data, tmp_path, stgt):
    theirs = tmp_path / "train-000000.tar"
    theirs.write_bytes(b"shards of another program")
    status, printed = stgt("data", "pack", data / "train.json", "--out", tmp_path)
    assert status == 2 and "holds train-000000.tar already" in printed
    assert theirs.read_bytes() == b"shards of another program" and not list(tmp_path.glob(".unfinished*"))


def test_a_scan_of_packed_shards_finds_what_the_manifest_says(packed, tmp_path, stgt):
    status, printed = stgt("data", "manifest", packed, "--out", tmp_path / "found.parquet")
    assert status == 0 and "4 videos or images in" in printed
    frames = [pd.read_parquet(path) for path in (packed / "train.parquet", tmp_path / "found.parquet")]
    for one, other in zip(*(frame.drop(columns="image").to_dict("records") for frame in frames), strict=True):
        assert {**one, "captions": list(one["captions"])} == {**other, "captions": list(other["captions"])}


def test_missing_videos_and_odd_sizes_are_refused_before_anything_is_written(data, tmp_path, stgt):
    (tmp_path / "train.json").write_text('[{"video": "gone.mp4", "caption": "a"}]')
    words = ("data", "pack", tmp_path / "train.json", "--videos", data / "videos", "--out", tmp_path / "out")
    status, printed = stgt(*words)
    assert status == 2 and "gone.mp4: no such file" in printed and not (tmp_path / "out").exists()
    assert [parse_size(text) for text in ("1GB", "1.5 kb", "2M", "7")] == [10**9, 1500, 2 * 10**6, 7]
    for text in ("", "GB", "-1GB", "0", "1XB", "1e9"):
        with pytest.raises(ValueError, match="shard_size is .*, expected a size such as 1GB"):
            parse_size(text)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Shards in the form of img2dataset: key.jpg, key.txt and key.json, and a table beside each shard."""
    folder = tmp_path_factory.mktemp("pictures")
    for shard in range(2):
        rows = []
        with webdataset.TarWriter(str(folder / f"{shard:05}.tar")) as writer:
            for number in range(3):
                key, caption = f"{shard:05}{number:04}", f"picture {number} of {shard}"
                pixels = np.full((8, 8, 3), 20 * number, np.uint8)
                fields = {
                    "__key__": key,
                    "jpg": encoded(pixels),
                    "json": {"key": key, "caption": caption, "exif": "{}"},
                }
                writer.write(fields if number else fields | {"txt": caption, "json": {"key": key}})
                rows.append({"key": key, "url": f"http://x/{key}", "caption": caption, "status": "success"})
            rows.append({"key": "x", "url": "http://x/x", "caption": "gone", "status": "failed_to_download"})
        pd.DataFrame(rows).to_parquet(folder / f"{shard:05}.parquet")
    return folder


def encoded(pixels):
    contents = io.BytesIO()
    Image.fromarray(pixels).save(contents, "JPEG")
    return contents.getvalue()


def test_shards_of_img2dataset_are_read(pictures, tmp_path, make):
    assert scan_shards(str(pictures), tmp_path / "m.parquet") == (6, 2)
    items = make(tmp_path / "m.parquet", pictures, train=False)
    assert list(items.captions) == [(i, f"picture {i % 3} of {i // 3}") for i in range(6)]
    assert items.images.all() and items[4]["video"].shape == (1, 3, 16, 16)
    assert items.videos.files() == ["00000.tar", "00001.tar"]


def test_a_truncated_shard_costs_its_own_samples(data, tmp_path, make, caplog):
    with webdataset.ShardWriter(str(tmp_path / "%d.tar"), maxcount=4, verbose=0) as writer:
        for number in range(8):
            clip = (data / "videos" / [*CAPTIONS][number % 4]).read_bytes()
            writer.write({"__key__": f"k{number}", "mp4": clip, "txt": f"clip {number}"})
    assert scan_shards(str(tmp_path), tmp_path / "whole.parquet") == (8, 2)
    place = open_manifest(tmp_path / "whole.parquet").row(2)
    shard = tmp_path / "0.tar"
    shard.write_bytes(shard.read_bytes()[: place.offset + place.size // 2])
    items = make(tmp_path / "whole.parquet", tmp_path)
    for index in range(8):
        assert (SeededItems(items, 0)[0, index]["replaced"] > 0) == (index in (2, 3))
    assert f"{shard}, offset {place.offset}, member k2.mp4: the shard is cut short: {place.size // 2} of" in caplog.text
    assert scan_shards(str(tmp_path), tmp_path / "rest.parquet") == (6, 2)
    assert list(open_manifest(tmp_path / "rest.parquet"))[:3] == ["0.tar/k0.mp4", "0.tar/k1.mp4", "1.tar/k4.mp4"]
    assert f"{shard}: unexpected end of data; the samples before it are used" in caplog.text


def test_a_shard_that_was_replaced_is_noticed(packed, tmp_path):
    row = open_manifest(packed / "train.parquet").row(0)
    member = Member(str(tmp_path / row.shard), row.offset, row.size, row.video)
    write_shard(tmp_path / row.shard, {row.video: bytes(row.size + 9)})
    with pytest.raises(VideoError, match=rf"another shard is there: it has a member of {row.size + 9} bytes at this"):
        read_member(member)
    write_shard(tmp_path / row.shard, {"a": bytes(10**4), row.video: bytes(row.size)})
    with pytest.raises(VideoError, match="another shard is there: it has no member at this place"):
        read_member(member._replace(offset=2048))
    with pytest.raises(VideoError, match="no member at this place"):
        read_member(member._replace(offset=9))


def test_shards_in_a_store_are_found_and_read_by_range(packed, make, tmp_path):
    memory = fsspec.filesystem("memory")
    memory.put(str(packed), "/bucket/clips", recursive=True)
    try:
        assert scan_shards("memory://bucket/clips", tmp_path / "m.parquet")[0] == 4
        items, local = (
            make(*place) for place in ((tmp_path / "m.parquet", tmp_path), (packed / "train.parquet", packed))
        )
        assert items.videos.row(3).shard.startswith("memory://")
        assert all(same(SeededItems(items, 0)[0, i], SeededItems(local, 0)[0, i], but=["path"]) for i in range(5))
        memory.rm("/bucket", recursive=True)
        with pytest.raises(VideoError, match=r"memory://.*, offset \d+, member 000000000.mp4: no such file"):
            items.clip(0)
    finally:
        memory.store.clear()


def test_shards_on_a_server_are_read_by_range_also_in_other_processes(packed, make, tmp_path, monkeypatch):
    frame = pd.read_parquet(packed / "train.parquet")
    with serving_ranges(packed) as (address, answered):
        frame.assign(shard=address + "/" + frame["shard"]).to_parquet(tmp_path / "m.parquet")
        items, local = (
            make(*place) for place in ((tmp_path / "m.parquet", tmp_path), (packed / "train.parquet", packed))
        )
        (batch,) = loader.read_batches(SeededItems(items, 0), [[(0, 4), (0, 2)]], workers=1, collate=collate)
        assert same(batch, collate([SeededItems(local, 0)[0, i] for i in (4, 2)]), but=["path"])
        rows = [frame.iloc[i] for i in (3, 1)]
        assert answered == [
            (row["shard"], range(max(row["offset"] - 4096, 0), row["offset"] + row["size"])) for row in rows
        ]
    monkeypatch.setattr(member_module, "_WAIT", 0.0)
    with pytest.raises(VideoError, match=rf"{address}/train.*, offset \d+, member 000000000.mp4: ClientConnector"):
        items.clip(0)


def test_a_scan_on_a_server_reads_headers_and_captions_alone(tmp_path, data):
    clip = (data / "videos" / "a.mp4").read_bytes() + bytes(10**6)
    (tmp_path / "shards").mkdir()
    with webdataset.TarWriter(str(tmp_path / "shards" / "0.tar")) as writer:
        for number in range(5):
            writer.write({"__key__": f"k{number}", "mp4": clip, "txt": f"clip {number}"})
    with serving_ranges(tmp_path / "shards") as (address, answered):
        assert scan_shards(address, tmp_path / "m.parquet") == (5, 1)
        assert open_manifest(tmp_path / "m.parquet").row(0)[:2] == ("k0.mp4", f"{address}/0.tar")
        assert 0 < sum(len(asked) for _, asked in answered) < 10**6
    with serving_ranges(tmp_path / "shards", refuse=True) as (address, _), pytest.raises(ValueError) as error:
        scan_shards(address, tmp_path / "n.parquet")
    assert str(error.value).startswith(f"{address}/0.tar: ") and "support range requests" in str(error.value)


def test_addresses_that_cannot_be_read_here_are_refused(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="nothing://x: Protocol not known"):
        scan_shards("nothing://x", tmp_path / "m.parquet")
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(ValueError, match="s3://bucket/0.tar: .*s3fs"):
        read_member(Member("s3://bucket/0.tar", 0, 9, "a.mp4"))


def test_a_server_that_does_not_know_ranges_is_named(packed, monkeypatch):
    monkeypatch.setattr(member_module, "_WAIT", 0.0)
    with serving_ranges(packed, refuse=True) as (address, _), pytest.raises(StoreError, match="more than the range"):
        read_member(Member(f"{address}/train-000000.tar", 512, 100, "a.mp4"))


def test_splits_are_packed_into_one_folder(data, make, tmp_path, stgt):
    for name, video in (("train", "a.mp4"), ("val", "d.mp4"), ("val-more", "b.mkv")):
        (tmp_path / f"{name}.json").write_text(json.dumps([{"video": video, "caption": name}]))
        words = ("--videos", data / "videos", "--out", tmp_path / "out")
        status, printed = stgt("data", "pack", tmp_path / f"{name}.json", *words)
        assert status == 0 and f"{tmp_path / 'out' / name}.parquet: 1 videos or images in 1 shards" in printed
    train, val = (make(tmp_path / "out" / f"{name}.parquet", tmp_path / "out") for name in ("train", "val"))
    assert train[0]["caption"] == "train" and val[0]["caption"] == "val" and len(train) == len(val) == 1
    status, printed = stgt("data", "pack", tmp_path / "val.json", *words)
    assert status == 2 and "holds val.parquet already" in printed


def test_a_check_ends_if_the_store_fails_and_goes_on_afterwards(packed, tmp_path, monkeypatch):
    monkeypatch.setattr(member_module, "_WAIT", 0.0)
    memory, failures = fsspec.filesystem("memory"), []
    read = type(memory).cat_file

    def failing(self, path, **options):
        if failures:
            raise failures[0]
        return read(self, path, **options)

    monkeypatch.setattr(type(memory), "cat_file", failing)
    memory.put(str(packed), "/bucket/clips", recursive=True)
    try:
        scan_shards("memory://bucket/clips", tmp_path / "m.parquet")
        manifest = open_manifest(tmp_path / "m.parquet")
        files = dict(report=tmp_path / "report.json", bad_list=tmp_path / "bad.json")
        for failure, kind in ((TimeoutError("too slow"), StoreError), (PermissionError("no key"), PermissionError)):
            failures[:] = [failure]
            with pytest.raises(kind, match=f"member 000000000.mp4: {type(failure).__name__}: {failure}") as error:
                write_report(manifest, tmp_path, **files)
            assert isinstance(error.value, VideoError) == (kind is StoreError) and not files["bad_list"].exists()
        failures.clear()
        write_report(manifest, tmp_path, **files)
        assert json.loads(files["bad_list"].read_text()) == {}
    finally:
        memory.store.clear()


def test_a_failing_server_is_asked_again(packed, monkeypatch, caplog):
    monkeypatch.setattr(member_module, "_WAIT", 0.0)
    memory = fsspec.filesystem("memory")
    contents = io.BytesIO()
    write_shard(contents, {"a.mp4": b"234"})
    memory.pipe("/s.tar", contents.getvalue())
    failures = [TimeoutError("too slow")] * 2
    read = type(memory).cat_file

    def unsteady(self, *args, **options):
        if failures:
            raise failures.pop()
        return read(self, *args, **options)

    monkeypatch.setattr(type(memory), "cat_file", unsteady)
    assert read_member(Member("memory://s.tar", 512, 3, "a.mp4")) == b"234" and not failures
    assert caplog.text.count("TimeoutError: too slow; it is asked for again") == 2
    failures[:] = [TimeoutError("too slow")] * 3
    with pytest.raises(VideoError, match="s.tar, offset 512, member a.mp4: TimeoutError: too slow"):
        read_member(Member("memory://s.tar", 512, 3, "a.mp4"))
    failures[:] = [OSError("416 Range Not Satisfiable")] * 3
    with pytest.raises(VideoError, match="the shard is cut short: 0 of 3 bytes are there") as error:
        read_member(Member("memory://s.tar", len(contents.getvalue()) + 512, 3, "a.mp4"))
    assert not isinstance(error.value, StoreError)  # so that `stgt data check` lists the clip and goes on
    memory.store.clear()


def test_an_opened_member_is_a_file_that_is_gone_afterwards(packed, tmp_path):
    row = open_manifest(packed / "train.parquet").row(1)
    member = Member(str(packed / row.shard), row.offset, row.size, row.video)
    with opened(member) as path:
        assert path.suffix == ".mkv" and read_frames(path, 2).shape == (2, 32, 32, 3)
    assert not path.exists()
    write_shard(tmp_path / "0.tar", {"b.mkv": read_member(member)[:200]})
    broken = Member(str(tmp_path / "0.tar"), 512, 200, "b.mkv")
    with pytest.raises(VideoError, match=rf"^{broken}: broken video"), opened(broken) as path:
        read_frames(path, 2)
    assert not path.exists()
    for shard, cause in ((packed / "gone.tar", "no such file"), (packed, "there is a folder of this name")):
        with pytest.raises(VideoError, match=f"{shard}, offset .*, member .*: .*{cause}"):
            read_member(member._replace(shard=str(shard)))
    with pytest.raises(VideoError, match=f"cut short: 0 of {10**12} bytes"):
        read_member(member._replace(offset=10**12, size=10**12))


def test_check_lists_the_members_that_cannot_be_read_and_training_leaves_them_out(packed, make, tmp_path, stgt):
    for path in packed.glob("train-*.tar"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    frame = pd.read_parquet(packed / "train.parquet")
    frame.to_parquet(tmp_path / "train.parquet")
    with open(tmp_path / frame["shard"][1], "r+b") as shard:
        shard.seek(frame["offset"][1])
        shard.write(bytes(int(frame["size"][1])))
    (tmp_path / frame["shard"][3]).unlink()
    status, printed = stgt("data", "check", tmp_path / "train.parquet", "--videos", tmp_path, "--jobs", 2)
    found = json.loads((tmp_path / "train.bad.json").read_text())
    names = [f"{frame['shard'][i]}/{frame['video'][i]}" for i in (1, 2, 3)]
    assert status == 0 and [*found] == names and found[names[1]] == "no such file" and "3 of 4 videos" in printed
    items = make(tmp_path / "train.parquet", tmp_path, bad_list=tmp_path / "train.bad.json")
    assert list(items.videos) == [f"{frame['shard'][0]}/{frame['video'][0]}"]
