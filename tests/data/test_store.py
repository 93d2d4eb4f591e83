"""Batches on the disk give back the rows that were written, are complete or absent, and are shared by processes."""

import fcntl
import multiprocessing
import os
import random
import resource
import signal
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from helpers.forks import Fork
from safetensors.torch import save_file

from stgt.data.batch_names import NumberedBatches
from stgt.data.store import Store, digest
from stgt.distributed import World
from stgt.files import atomic_file
from stgt.integrity import DamagedError

ALONE = World(0, 1, torch.device("cpu"))


def filled(folder, table, size):
    store = Store(folder, NumberedBatches(len(table), size))
    for name in store.missing():
        items = store.items(name)
        store.write(name, table=table[items.start : items.stop])
    return store


@pytest.mark.parametrize("size", [1, 3, 7, 20])
def test_rows_come_back_in_the_order_of_the_items(size, tmp_path):
    table = torch.randn(7, 2, 3).bfloat16()
    store = filled(tmp_path / "new", table, size)
    assert len(store) == 7 and store.missing() == []
    for items in ([0], [6], [0, 1, 2, 3, 4, 5, 6], [5, 0, 0, 6, 2]):
        assert torch.equal(store.rows("table", items), table[items])
    assert torch.equal(store.all("table"), table)


def test_all_processes_together_have_each_batch_once(tmp_path):
    store = Store(tmp_path, NumberedBatches(23, 2))
    for size in (1, 2, 3, 5, 13):
        shares = [store.missing(World(rank, size, ALONE.device)) for rank in range(size)]
        assert (
            sorted(sum(shares, [])) == list(NumberedBatches(23, 2))
            and max(map(len, shares)) - min(map(len, shares)) <= 1
        )


def test_only_damaged_and_missing_batches_are_computed_again(tmp_path):
    store = filled(tmp_path, torch.arange(6.0), 2)
    path = tmp_path / "000001.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    assert store.missing() == ["000001"]
    store.write("000001", table=torch.tensor([7.0, 8.0]))
    assert store.all("table").tolist() == [0, 1, 7, 8, 4, 5]


def test_a_flipped_byte_is_refused_or_computed_again_and_never_read(tmp_path):
    table, other = torch.randn(6, 4), torch.randn(6, 2, 3).bfloat16()
    store, draw = Store(tmp_path, NumberedBatches(6, 3)), random.Random(0)
    for name in store.missing():
        items = store.items(name)
        store.write(name, table=table[items.start : items.stop], other=other[items.start : items.stop])
    path = tmp_path / "000001.safetensors"
    whole, refused = path.read_bytes(), 0
    for place in [*range(8), *draw.sample(range(8, len(whole)), 120)]:
        path.write_bytes(whole[:place] + bytes([whole[place] ^ (1 << draw.randrange(8))]) + whole[place + 1 :])
        again = Store(tmp_path, NumberedBatches(6, 3))
        if again.missing() == ["000001"]:
            continue
        for key, rows in {"table": table, "other": other}.items():
            for read, expected in ((again.all, rows), (lambda key: again.rows(key, [1, 4, 5]), rows[[1, 4, 5]])):  # noqa: B023
                try:
                    assert torch.equal(read(key), expected)
                except DamagedError as error:
                    assert "000001.safetensors: " in str(error) and "remove the file" in str(error)
                    refused += 1
    assert refused > 60


def test_a_file_with_the_rows_of_another_batch_is_refused(tmp_path):
    store = filled(tmp_path, torch.randn(7, 2), 5)
    store.path("000001").replace(store.path("000000"))
    for read in (lambda: store.rows("table", [0, 1]), lambda: store.row(["table"], 4), lambda: store.all("table")):
        with pytest.raises(DamagedError, match="000000.safetensors: table has 2 rows, expected 5; remove the file"):
            read()


def test_batches_without_checksums_are_computed_again(tmp_path, caplog):
    store = Store(tmp_path, NumberedBatches(2, 2))
    save_file({"table": torch.zeros(2)}, tmp_path / "000000.safetensors")
    store.fill(lambda names: ({"table": torch.ones(2)} for _ in names))
    assert "000000.safetensors is computed again: it is damaged, or an earlier version wrote it" in caplog.text
    assert store.all("table").tolist() == [1, 1]


def test_rows_that_are_not_finite_are_not_written(tmp_path):
    store = Store(tmp_path / "videos", NumberedBatches(4, 2))
    with pytest.raises(ValueError, match="videos, item 3: its table hold NaN or infinite numbers"):
        store.write("000001", table=torch.tensor([1.0, float("inf")]))
    assert not (tmp_path / "videos").exists()


def test_a_process_that_writes_into_another_folder_is_an_error(tmp_path):
    store = Store(tmp_path, NumberedBatches(4, 2))
    first_of_two = SimpleNamespace(rank=0, size=2, is_main=True, barrier=lambda: None)
    with pytest.raises(OSError, match="000001.safetensors: there is no such file, expected it from another process"):
        store.fill(lambda names: ({"table": torch.zeros(2)} for _ in names), first_of_two)
    assert store.missing() == ["000001"]


def test_other_files_are_removed_on_request(tmp_path):
    filled(tmp_path, torch.arange(6.0), 2)
    store = Store(tmp_path, {"000002": 2})
    store.keep_only()
    assert [path.name for path in tmp_path.iterdir()] == ["000002.safetensors"] and store.missing() == []


def test_files_that_another_command_uses_are_not_removed(tmp_path):
    """Two searches of one folder list different files if a file has come or gone between them."""
    filled(tmp_path, torch.arange(6.0), 2)
    first = Store(tmp_path, {"000000": 2, "000001": 2})
    first.keep_only()
    used = first.part(["000001"])
    del first
    Store(tmp_path, {"000002": 2}).keep_only()
    assert used.all("table").tolist() == [2, 3]
    del used
    Store(tmp_path, {"000002": 2}).keep_only()
    assert not list(tmp_path.glob("*.safetensors"))


def test_a_file_that_another_process_is_writing_or_removing_is_left_to_it(tmp_path, monkeypatch):
    store = filled(tmp_path, torch.arange(6.0), 2)
    with atomic_file(store.path("000001")) as partial:
        partial.write_bytes(b"new")
        Store(tmp_path, {"000002": 2}).keep_only()
        assert partial.exists()
    assert store.path("000001").read_bytes() == b"new"

    listed = [store.path("000000"), store.path("000001")]
    listed[1].unlink()
    monkeypatch.setattr(Path, "glob", lambda *_: iter(listed))
    Store(tmp_path, {"000000": 2}).keep_only()


def write_on_a_full_disk(store, said):
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
    try:
        store.write("000001", table=torch.zeros(3, 1000))
    except OSError as error:
        said.send(str(error))


def test_a_full_disk_is_named_and_nothing_half_written_stays(tmp_path):
    store = Store(tmp_path, NumberedBatches(6, 3))
    store.write("000000", table=torch.zeros(3, 10))
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("fork").Process(target=write_on_a_full_disk, args=(store, theirs))
    process.start()
    assert ours.poll(60) and "000001.safetensors: could not be written" in ours.recv()
    process.join()
    assert [path.name for path in tmp_path.iterdir()] == ["000000.safetensors"]


def test_a_digest_distinguishes_values_shapes_and_types():
    x = torch.arange(6)
    parts = [(x,), (x + 1,), (x.view(2, 3),), (x.int(),), (x, 1), ("x",), ("x", 1), ("x1",)]
    assert len({digest(*part) for part in parts}) == len(parts)
    assert digest(x.view(2, 3).T) == digest(x.view(2, 3).T.contiguous())


def test_what_was_written_before_an_error_is_kept_and_not_computed_again(tmp_path):
    store, asked = Store(tmp_path / "new", NumberedBatches(8, 2)), []

    def compute(names, last="000001"):
        for name in names:
            asked.append(name)
            yield {"table": torch.full((2,), float(name))}
            if name == last:
                raise RuntimeError("the machine is tired")

    with pytest.raises(RuntimeError, match="tired"):
        store.fill(compute)
    assert sorted(os.listdir(store.folder)) == ["000000.safetensors", "000001.safetensors"]
    store.fill(lambda names: compute(names, None))
    assert asked == ["000000", "000001", "000002", "000003"]
    assert store.all("table").tolist() == [0, 0, 1, 1, 2, 2, 3, 3]


def test_a_batch_without_tensors_is_passed_over_and_tried_again_the_next_time(tmp_path):
    store, asked = Store(tmp_path / "new", NumberedBatches(3, 1)), []

    def compute(names):
        for name in names:
            asked.append(name)
            yield None if name == "000001" else {"table": torch.ones(1)}

    store.fill(compute)
    store.fill(compute)
    assert asked == ["000000", "000001", "000002", "000001"] and store.missing() == ["000001"]
    assert sorted(os.listdir(store.folder)) == ["000000.safetensors", "000002.safetensors"]


FILES = [f"{name}.safetensors" for name in NumberedBatches(40, 1)]


def fill_and_say(folder, *, together, ahead, last, hangs):
    """Fill a store of 40 batches, and note each computation with the number of this process."""
    store, said = Store(folder / "store", NumberedBatches(40, 1)), folder / "said"

    def compute(names):
        asked = []  # like a data loader, this asks for some names ahead
        for name in names:
            asked.append(name)
            if len(asked) > ahead:
                yield say(asked.pop(0))
        yield from map(say, asked)

    def say(name):
        with said.open("a") as file:
            file.write(f"{os.getpid()} {name}\n")
        while len({line.split()[0] for line in said.read_text().splitlines()}) < together:
            time.sleep(0.01)
        if hangs or len(said.read_text().splitlines()) >= last:
            time.sleep(600)
        return {"table": torch.full((1, 1000), float(name))}

    store.fill(compute)
    assert store.all("table")[:, 0].tolist() == [float(number) for number in range(40)]


@pytest.fixture
def fill(tmp_path):
    """Start processes that fill one store of 40 batches. Each of them computes one before any computes a second."""
    started = []

    def start(count, *, ahead=3, last=1000, hang=0):
        """ahead: how many names a process asks for before it computes one. last: the batch that is never ready.
        hang: how many of the processes never end their first batch."""
        for number in range(count):
            work = partial(fill_and_say, tmp_path, together=count, ahead=ahead, last=last, hangs=number < hang)
            started.append(Fork(work))
        return started[-count:]

    yield start
    for process in started:
        process.kill()


def computed(folder):
    """The process and the name of each computation so far."""
    said = folder / "said"
    return [tuple(line.split()) for line in said.read_text().splitlines()] if said.exists() else []


def test_processes_share_the_work_and_compute_each_batch_once(fill, tmp_path):
    processes = fill(3)
    assert [process.finish()[0] for process in processes] == [0, 0, 0]
    assert sorted(name for _, name in computed(tmp_path)) == list(NumberedBatches(40, 1))
    assert {int(number) for number, _ in computed(tmp_path)} == {process.pid for process in processes}
    assert sorted(os.listdir(tmp_path / "store")) == FILES


@pytest.mark.parametrize("ahead", [0, 5])
def test_the_batches_of_a_killed_process_are_computed_by_another_that_is_running(ahead, fill, tmp_path):
    killed, other = fill(2, ahead=ahead, hang=1)
    while len(computed(tmp_path)) < 40 - ahead:  # the other process computes all that this one does not hold
        assert killed.is_running() and other.is_running()
        time.sleep(0.01)
    killed.kill()
    assert killed.finish()[0] == -signal.SIGKILL and other.finish()[0] == 0
    names = [name for _, name in computed(tmp_path)]
    assert (
        set(names) == set(NumberedBatches(40, 1)) and len(names) == 41
    )  # the killed process was computing one of them
    assert sorted(os.listdir(tmp_path / "store")) == FILES


def test_after_all_processes_were_killed_only_the_missing_batches_are_computed(fill, tmp_path):
    processes = fill(2, last=20)
    while len(computed(tmp_path)) < 20:
        assert all(process.is_running() for process in processes)
        time.sleep(0.01)
    for process in processes:
        process.kill()
        process.finish()
    missing = Store(tmp_path / "store", NumberedBatches(40, 1)).missing()
    assert 20 <= len(missing) <= 22
    before = len(computed(tmp_path))
    (again,) = fill(1)
    assert again.finish()[0] == 0
    assert [name for _, name in computed(tmp_path)[before:]] == missing
    assert sorted(os.listdir(tmp_path / "store")) == FILES


def test_without_locks_a_store_is_filled_with_one_warning(tmp_path, monkeypatch, caplog):
    def refuse(*_):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", refuse)
    store = Store(tmp_path, NumberedBatches(8, 2))
    store.fill(lambda names: ({"table": torch.ones(2)} for _ in names))
    assert len(os.listdir(tmp_path)) == 4 and caplog.text.count("the file system has no locks") == 1
