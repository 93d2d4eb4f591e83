"""A scan makes a manifest of shards, and what is odd in a shard costs only its own samples."""

import io
import shutil
import subprocess
import tarfile

import pytest
from helpers.ranges import serving_ranges
from helpers.shards import write_shard

import stgt.data.shards.member as member_module
from stgt.data.errors import StoreError
from stgt.data.manifest.cache import open_manifest

fsspec = pytest.importorskip("fsspec", reason="pip install fsspec aiohttp")
pd = pytest.importorskip("pandas", reason="pip install pandas")
webdataset = pytest.importorskip("webdataset", reason="pip install webdataset")

from stgt.data.shards.scan import _Shard, scan_shards  # noqa: E402


def rows_of(folder, out):
    scan_shards(str(folder), out)
    manifest = open_manifest(out)
    return dict(zip(manifest, manifest.said(), strict=True))


def test_captions_come_from_the_table_beside_a_shard_where_it_has_none(tmp_path, caplog):
    with webdataset.TarWriter(str(tmp_path / "00000.tar")) as writer:
        for key in ("000000000_00000", "000000001", "000000002"):
            writer.write(
                {"__key__": key, "mp4": b"a clip", "json": {"key": key, "clips": [[0.0, 1.0]]}, "jpg": b"thumbnail"}
            )
    pd.DataFrame({"key": ["000000000_00000", "000000001"], "caption": ["a", None]}).to_parquet(
        tmp_path / "00000.parquet"
    )
    assert scan_shards(str(tmp_path), tmp_path / "m.parquet") == (1, 1)
    assert "00000.tar: 2 videos or images have no caption, and are left out" in caplog.text
    assert list(open_manifest(tmp_path / "m.parquet")) == ["00000.tar/000000000_00000.mp4"]


def test_a_damaged_header_ends_a_scan_with_a_warning(tmp_path, caplog):
    write_shard(tmp_path / "0.tar", {"a.mp4": b"x", "a.txt": b"a", "b.mp4": b"x", "b.txt": b"b"})
    contents = bytearray((tmp_path / "0.tar").read_bytes())
    contents[2048:2348] = b"x" * 300  # the header of b.mp4: a member of a byte takes two blocks
    (tmp_path / "0.tar").write_bytes(contents)
    assert rows_of(tmp_path, tmp_path / "m.parquet") == {"0.tar/a.mp4": ["a"]}
    assert "0.tar: damaged at byte 2048; the samples before it are used" in caplog.text


def test_folders_without_usable_shards_are_refused(tmp_path):
    with pytest.raises(ValueError, match="there is no .tar file, expected.* or an annotation whose name ends in"):
        scan_shards(str(tmp_path), tmp_path / "m.parquet")
    with webdataset.TarWriter(str(tmp_path / "0.tar")) as writer:
        writer.write({"__key__": "a", "txt": "no picture"})
    with pytest.raises(ValueError, match="no shard holds a video or image with a caption"):
        scan_shards(str(tmp_path), tmp_path / "m.parquet")
    assert not (tmp_path / "m.parquet").exists()


def test_members_of_a_sample_are_told_apart_by_their_whole_ending(tmp_path):
    depth_first = {"a.depth.png": b"x", "a.JPG": b"x", "a.json": b'{"caption": "a"}', "a.meta.json": b"{}"}
    write_shard(tmp_path / "0.tar", depth_first)
    assert rows_of(tmp_path, tmp_path / "m.parquet") == {"0.tar/a.JPG": ["a"]}


def test_samples_without_bytes_or_with_odd_captions_cost_only_themselves(tmp_path, caplog):
    captions = {
        "a.json": b'{"caption": "a", "width": NaN, "key": 1, "key": 2}',
        "b.json": b"{",
        "c.json": b"[1]",
        "d.txt": "café".encode("latin-1"),
        "e.json": b'{"caption": "half \\ud83d"}',
        "f.txt": "\ufefff".encode(),
        "g.json": b"[" * 10**6,
    }
    members = {f"{name[0]}.jpg": b"x" for name in captions} | captions
    names = sorted(members, key=lambda name: (name[0], name[2:] != "jpg"))
    write_shard(tmp_path / "0.tar", {name: members[name] for name in names} | {"h.jpg": b"", "h.txt": b"h"})
    assert rows_of(tmp_path, tmp_path / "m.parquet") == {
        "0.tar/a.jpg": ["a"], "0.tar/e.jpg": ["half ?"], "0.tar/f.jpg": ["f"]
    }  # fmt: skip
    assert "0.tar: 4 videos or images have no caption, and are left out" in caplog.text
    assert "0.tar: 1 videos or images are empty, and are left out" in caplog.text
    assert "0.tar: the .json member of b cannot be read, and gives no caption (Expecting property" in caplog.text
    assert caplog.text.count("cannot be read") == 1


def test_a_name_that_is_not_utf8_costs_nothing(tmp_path):
    write_shard(tmp_path / "0.tar", {"caf\udce9.jpg": b"x", "caf\udce9.txt": b"a"})
    assert rows_of(tmp_path, tmp_path / "m.parquet") == {"0.tar/caf?.jpg": ["a"]}


def test_a_sparse_member_costs_only_itself(tmp_path, caplog):
    folder = tmp_path / "members"
    folder.mkdir()
    with open(folder / "a.mp4", "wb") as file:
        file.truncate(10**8)
    for name, contents in {"a.txt": "a", "b.mp4": "x", "b.txt": "b"}.items():
        (folder / name).write_text(contents)
    names = ["a.mp4", "a.txt", "b.mp4", "b.txt"]
    said = subprocess.run(["tar", "--version"], capture_output=True, text=True).stdout if shutil.which("tar") else ""
    if "GNU tar" not in said:
        pytest.skip("only GNU tar writes sparse members")
    subprocess.run(["tar", "--sparse", "-cf", tmp_path / "0.tar", "-C", folder, *names], check=True)
    assert (tmp_path / "0.tar").stat().st_size < 10**6
    assert rows_of(tmp_path, tmp_path / "m.parquet") == {"0.tar/b.mp4": ["b"]}
    (warning,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert warning.startswith("0.tar: 1 samples have no video or image, and are left out; the first begins with a.txt")


def test_a_single_shard_is_scanned_as_if_it_were_alone_in_its_folder(tmp_path):
    write_shard(tmp_path / "0.tar", {"a.jpg": b"x", "a.txt": b"a"})
    (tmp_path / "1.tar").write_bytes(b"no shard")
    assert rows_of(tmp_path / "0.tar", tmp_path / "m.parquet") == {"0.tar/a.jpg": ["a"]}


def test_a_json_member_of_another_program_gives_no_former_name(tmp_path):
    with webdataset.TarWriter(str(tmp_path / "0.tar")) as writer:
        for number in range(2):
            about = {"video": "the film of both clips", "start": number, "caption": "a"}
            writer.write({"__key__": f"{number}", "mp4": b"a clip", "json": about})
    scan_shards(str(tmp_path), tmp_path / "all.parquet")
    assert [*open_manifest(tmp_path / "all.parquet").identities()] == ["0.tar/0.mp4", "0.tar/1.mp4"]


def test_samples_whose_video_is_not_found_are_counted(tmp_path, caplog):
    """The names of LSMDC's clips hold times, whose dots begin the ending of a member."""
    names = ["film_00.01-00.02", "film_00.02-00.03", "g_00.05-00.06"]
    members = {f"{name}{ending}": b"x" for name in names for ending in (".mp4", ".txt")}
    write_shard(tmp_path / "0.tar", {"a.mp4": b"x", "a.txt": b"a"} | members | {"b.braw": b"x", "b.txt": b"b"})
    assert rows_of(tmp_path, tmp_path / "m.parquet") == {"0.tar/a.mp4": ["a"]}
    assert "0.tar: 3 samples have no video or image, and are left out; the first begins with film_00.01-00.02.mp4" in (
        caplog.text
    )


@pytest.mark.parametrize("names", [["mp4", "txt", "mp4", "txt"], ["txt", "mp4", "txt", "mp4"], ["mp4", "json", "json"]])
def test_a_sample_with_two_members_of_one_ending_is_refused(names, tmp_path):
    """The first video had the caption of the second one."""
    with tarfile.open(tmp_path / "0.tar", "w") as shard:
        for name in names:
            shard.addfile(tarfile.TarInfo(f"a.{name}"))
    twice = next(name for place, name in enumerate(names) if name in names[:place])
    with pytest.raises(ValueError, match=rf"0\.tar: a sample has two members a\.{twice}, expected one"):
        scan_shards(str(tmp_path), tmp_path / "m.parquet")


def test_a_table_beside_a_shard_may_have_no_captions(tmp_path, caplog):
    """Video2dataset writes one without this column if it was not asked for captions."""
    write_shard(tmp_path / "0.tar", {"a.mp4": b"x", "a.txt": b"a", "b.mp4": b"x"})
    pd.DataFrame({"key": ["a", "b"], "url": ["u", "v"]}).to_parquet(tmp_path / "0.parquet")
    assert rows_of(tmp_path, tmp_path / "m.parquet") == {"0.tar/a.mp4": ["a"]}
    assert "0.tar: 1 videos or images have no caption, and are left out" in caplog.text


def test_a_table_beside_a_shard_that_is_damaged_is_named_at_once(tmp_path, caplog):
    write_shard(tmp_path / "0.tar", {"a.mp4": b"x"})
    pd.DataFrame({"key": ["a"], "caption": ["a"]}).to_parquet(table := tmp_path / "0.parquet")
    table.write_bytes(b"PAR1" + b"\xff" * 60 + table.read_bytes()[64:])
    with pytest.raises(ValueError, match="0.parquet: columns key and caption cannot be read"):
        scan_shards(str(tmp_path), tmp_path / "m.parquet")
    assert "asked for again" not in caplog.text


def test_a_table_beside_a_shard_that_a_store_does_not_send_is_not_passed_over(tmp_path, monkeypatch):
    monkeypatch.setattr(member_module, "_WAIT", 0.0)
    write_shard(tmp_path / "0.tar", {"a.mp4": b"x", "b.mp4": b"x", "b.txt": b"b"})
    pd.DataFrame({"key": ["a"], "caption": ["a"]}).to_parquet(tmp_path / "0.parquet")
    with (
        serving_ranges(tmp_path, status=503, failing=".parquet") as (address, _),
        pytest.raises(StoreError, match=f"^{address}/0.tar: .*503"),
    ):
        scan_shards(address, tmp_path / "m.parquet")
    with serving_ranges(tmp_path) as (address, _):
        assert scan_shards(address, tmp_path / "m.parquet") == (2, 1)


def test_hidden_members_as_macos_writes_them_part_no_video_from_its_caption(tmp_path, caplog):
    named = {"./._a.mp4": b"xattr", "./a.mp4": b"x", "./._a.txt": b"xattr", "./a.txt": b"a", ".DS_Store": b"x"}
    write_shard(tmp_path / "0.tar", named)
    assert rows_of(tmp_path, tmp_path / "m.parquet") == {"0.tar/./a.mp4": ["a"]}
    assert "left out" not in caplog.text


@pytest.mark.parametrize("failure", [TimeoutError("too slow"), RuntimeError("503")], ids=str)
def test_a_scan_asks_a_failing_store_again_and_has_each_row_once(failure, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(member_module, "_WAIT", 0.0)
    memory, failures, contents = fsspec.filesystem("memory"), [], io.BytesIO()
    write_shard(contents, {"a.mp4": b"x", "a.txt": b"a", "b.mp4": b"x", "b.txt": b"b"})
    memory.pipe("/scanned/0.tar", contents.getvalue())
    captions = _Shard.captions

    def unsteady(self, sample):
        if sample.key == "/b" and failures:
            raise failures.pop()
        return captions(self, sample)

    monkeypatch.setattr(_Shard, "captions", unsteady)
    try:
        failures[:] = [failure] * 2
        assert scan_shards("memory://scanned", tmp_path / "m.parquet") == (2, 1)
        assert list(open_manifest(tmp_path / "m.parquet").said()) == [["a"], ["b"]]
        assert caplog.text.count(f"{failure}; it is asked for again") == 2
        failures[:] = [failure] * 3
        with pytest.raises(StoreError, match=f"/scanned/0.tar: {type(failure).__name__}: {failure}"):
            scan_shards("memory://scanned", tmp_path / "n.parquet")
        failures[:] = [PermissionError("no key")]
        with pytest.raises(PermissionError, match="/scanned/0.tar: PermissionError: no key"):
            scan_shards("memory://scanned", tmp_path / "n.parquet")
        assert not (tmp_path / "n.parquet").exists()
    finally:
        memory.store.clear()


def test_a_scan_of_a_server_that_refuses_or_fails_is_no_fault_of_this_package(tmp_path, monkeypatch):
    monkeypatch.setattr(member_module, "_WAIT", 0.0)
    write_shard(tmp_path / "0.tar", {"a.mp4": b"x", "a.txt": b"a"})
    for status, kind in ((401, PermissionError), (403, PermissionError), (503, StoreError)):
        with (
            serving_ranges(tmp_path, status=status) as (address, _),
            pytest.raises(kind, match=f"^{address}: .*{status}"),
        ):
            scan_shards(address, tmp_path / "m.parquet")
