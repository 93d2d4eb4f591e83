"""Files are complete or absent, whatever happens while they are written."""

import errno
import os
import shutil
import stat
import subprocess
import sys
import tempfile
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from stgt import files

KILLED = """
import os, signal, sys
from stgt.files import atomic_file, atomic_folder
with atomic_file(sys.argv[1] + "/page.md") as page, atomic_folder(sys.argv[1] + "/cache") as folder:
    page.write_text("half")
    (folder / "tokens.bin").write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_file_replaces_the_old_one_only_when_it_is_complete(tmp_path):
    path = tmp_path / "sub" / "page.md"
    files.write_text(path, "old")
    with pytest.raises(KeyError), files.atomic_file(path) as partial:
        partial.write_text("half of the new")
        raise KeyError
    assert path.read_text() == "old"
    files.write_text(path, "new")
    assert path.read_text() == "new"
    assert os.listdir(path.parent) == ["page.md"]


def test_a_folder_appears_only_when_it_is_complete(tmp_path):
    with pytest.raises(KeyError), files.atomic_folder(tmp_path / "cache") as partial:
        (partial / "tokens.bin").write_text("half")
        raise KeyError
    assert os.listdir(tmp_path) == []
    with files.atomic_folder(tmp_path / "cache") as partial:
        (partial / "tokens.bin").write_text("whole")
    assert (tmp_path / "cache" / "tokens.bin").read_text() == "whole"
    there_already = pytest.raises(FileExistsError, match=r"cache: could not be written \(it exists already\)")
    with there_already, files.atomic_folder(tmp_path / "cache"):
        pass


@pytest.mark.parametrize("umask", [0o002, 0o022, 0o077])
def test_files_have_the_permissions_of_the_umask(umask, tmp_path):
    before = os.umask(umask)
    try:
        files.write_json(tmp_path / "a.json", [1])
        files.write_tensors(tmp_path / "a.safetensors", {"x": torch.ones(2)})
        with files.atomic_folder(tmp_path / "folder"):
            pass
    finally:
        os.umask(before)
    modes = {name: stat.S_IMODE((tmp_path / name).stat().st_mode) for name in os.listdir(tmp_path)}
    assert modes == {"a.json": 0o666 & ~umask, "a.safetensors": 0o666 & ~umask, "folder": 0o777 & ~umask}


def test_the_temporary_name_keeps_the_ending_and_fits_any_name(tmp_path):
    name = "ä" * 123 + ".png"
    with files.atomic_file(tmp_path / name) as partial:
        assert partial.suffix == ".png"
        partial.write_text("x")
    assert os.listdir(tmp_path) == [name]


def test_a_link_stays_and_the_file_behind_it_is_replaced(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "link.md").symlink_to(tmp_path / "disk" / "page.md")
    files.write_text(tmp_path / "link.md", "text")
    assert (tmp_path / "link.md").is_symlink()
    assert os.listdir(tmp_path / "disk") == ["page.md"]


def test_a_device_is_written_and_not_replaced():
    files.write_text("/dev/null", "text")
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)


def test_an_error_names_the_file_that_could_not_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(
        NotADirectoryError, match="file/page.md: could not be written .*file is a file, expected a folder"
    ):
        files.write_text(tmp_path / "file" / "page.md", "text")
    with pytest.raises(IsADirectoryError, match="could not be written .it is a folder, expected a file"):
        files.write_text(tmp_path, "text")
    full = pytest.raises(OSError, match="page.md: could not be written .No space left")
    with full as caught, files.atomic_file(tmp_path / "page.md"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert caught.value.errno == errno.ENOSPC
    full = pytest.raises(OSError, match="cache: could not be written .No space left on device.")
    with full as caught, files.atomic_folder(tmp_path / "cache") as cache, files.atomic_file(cache / "page.md"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert caught.value.errno == errno.ENOSPC
    with pytest.raises(FileNotFoundError, match="other.mp4"), files.atomic_file(tmp_path / "page.md"):
        os.stat("other.mp4")


def test_a_full_disk_under_tensors_is_an_error_with_the_number_and_the_path(tmp_path):
    code = f"""
import resource, signal, torch
from stgt.files import write_tensors
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    write_tensors({str(tmp_path / "a.safetensors")!r}, dict(x=torch.ones(1000)))
except OSError as error:
    print(error.errno, error)
"""
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.startswith(f"{errno.EFBIG} {tmp_path / 'a.safetensors'}: could not be written")
    assert os.listdir(tmp_path) == []


def test_leftovers_of_killed_processes_are_removed_and_files_of_living_ones_stay(tmp_path):
    subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], check=False)
    left = os.listdir(tmp_path)
    assert len(left) == 2 and all(name.startswith(".partial-") for name in left)
    others = [name.replace("@", "@another", 1) for name in left]
    for name in others:
        (tmp_path / name).touch()
    with files.atomic_file(tmp_path / "living.md") as partial:
        files.collect_leftovers(tmp_path)
        assert sorted(os.listdir(tmp_path)) == sorted([partial.name, *others])
        partial.touch()


def test_the_first_writer_in_a_folder_removes_leftovers(tmp_path):
    subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], check=False)
    files.write_text(tmp_path / "page.md", "text")
    assert os.listdir(tmp_path) == ["page.md"]


def test_hashes(tmp_path):
    (tmp_path / "abc").write_text("abc")
    assert files.file_hash(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    a = {"x": torch.ones(2, 3), "y": torch.zeros(1, dtype=torch.bfloat16)}
    assert files.tensors_hash(a) == files.tensors_hash(dict(reversed(a.items())))
    others = [{"z": a["x"], "y": a["y"]}, a | {"x": torch.ones(3, 2)}, a | {"y": torch.zeros(1, dtype=torch.float16)}]
    assert len({files.tensors_hash(a), files.tensors_hash(a, "settings"), *map(files.tensors_hash, others)}) == 5
    files.write_tensors(tmp_path / "a.safetensors", a)
    assert files.tensors_hash(load_file(tmp_path / "a.safetensors")) == files.tensors_hash(a)


@pytest.mark.skipif(not os.path.isdir("/dev/shm"), reason="only Linux keeps files in memory at /dev/shm")
def test_a_scratch_file_is_on_the_disk_if_memory_has_no_room_and_is_gone_afterwards(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(tmp_path))
    for free, below in ((2**40, "/dev/shm"), (19, str(tmp_path))):
        monkeypatch.setattr(shutil, "disk_usage", lambda path, free=free: SimpleNamespace(free=free))
        with pytest.raises(RuntimeError), files.scratch_file(b"0123456789", ".mp4") as path:
            assert path.read_bytes() == b"0123456789" and path.suffix == ".mp4" and str(path).startswith(below)
            raise RuntimeError
        assert not path.exists()


@pytest.fixture
def scratch(tmp_path, monkeypatch):
    """The folder for scratch files where memory has no room."""
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=0))
    files._collect_scratch_once.cache_clear()
    return tmp_path / f"stgt-{os.getuid()}"


def test_no_other_user_sees_scratch_files_or_chooses_their_folder(scratch, tmp_path, monkeypatch):
    scratch.mkdir(mode=0o777)
    scratch.chmod(0o777)
    with files.scratch_file(b"x", ".mp4"):
        assert stat.S_IMODE(scratch.stat().st_mode) == 0o700
    scratch.rmdir()
    (tmp_path / "elsewhere").mkdir()
    scratch.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(PermissionError, match="not a folder of this user"), files.scratch_file(b"x", ".mp4"):
        pass
    scratch.unlink()
    scratch.mkdir()
    owner = os.getuid() + 1
    monkeypatch.setattr(os, "lstat", lambda path: SimpleNamespace(st_uid=owner, st_mode=stat.S_IFDIR | 0o777))
    with pytest.raises(PermissionError, match="not a folder of this user"), files.scratch_file(b"x", ".mp4"):
        pass
    assert not [*scratch.iterdir(), *(tmp_path / "elsewhere").iterdir()]


def test_old_scratch_files_of_other_containers_are_removed(scratch):
    scratch.mkdir(mode=0o700)
    old, new = (scratch / f".partial-1-{number}@elsewhere@file.mp4" for number in range(2))
    old.touch()
    new.touch()
    os.utime(old, ns=(0, 0))
    with files.scratch_file(b"x", ".mp4"):
        assert not old.exists() and new.exists()


@pytest.mark.skipif(not os.path.isdir("/dev/shm"), reason="only Linux keeps files in memory at /dev/shm")
def test_a_scratch_file_goes_to_the_disk_if_memory_fills_up_meanwhile(scratch, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=2**40))

    def opened(path, mode):
        if not str(path).startswith("/dev/shm"):
            return open(path, mode)
        path.touch()
        memory.append(path)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    memory = []
    monkeypatch.setattr(files, "open", opened, raising=False)
    with files.scratch_file(b"x", ".mp4") as path:
        assert path.parent == scratch and path.read_bytes() == b"x"
    assert len(memory) == 1 and not memory[0].exists()
