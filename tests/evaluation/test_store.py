"""Batches on the disk give back the rows that were written, are complete or absent, and are shared by processes."""

import multiprocessing
import random
import resource
import signal

import pytest
import torch
from safetensors.torch import save_file

from stgt.distributed import World
from stgt.evaluation.store import Store, batches, digest
from stgt.integrity import DamagedError

ALONE = World(0, 1, torch.device("cpu"))


def filled(folder, table, size):
    store = Store(folder, batches(len(table), size))
    for name in store.missing():
        items = store.items(name)
        store.write(name, table=table[items.start : items.stop])
    return store


@pytest.mark.parametrize("size", [1, 3, 7, 20])
def test_rows_come_back_in_the_order_of_the_items(size, tmp_path):
    table = torch.randn(7, 2, 3).bfloat16()
    store = filled(tmp_path / "new", table, size)
    assert len(store) == 7 and store.missing() == []
    for items in ([], [0], [6], [0, 1, 2, 3, 4, 5, 6], [5, 0, 0, 6, 2]):
        if items:
            assert torch.equal(store.rows("table", items), table[items])
    assert torch.equal(store.all("table"), table)


def test_all_processes_together_have_each_batch_once(tmp_path):
    store = Store(tmp_path, batches(23, 2))
    for size in (1, 2, 3, 5, 13):
        shares = [store.missing(World(rank, size, ALONE.device)) for rank in range(size)]
        assert sorted(sum(shares, [])) == list(batches(23, 2)) and max(map(len, shares)) - min(map(len, shares)) <= 1


def test_only_damaged_and_missing_batches_are_computed_again(tmp_path):
    store = filled(tmp_path, torch.arange(6.0), 2)
    path = tmp_path / "000001.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    assert store.missing() == ["000001"]
    store.write("000001", table=torch.tensor([7.0, 8.0]))
    assert store.all("table").tolist() == [0, 1, 7, 8, 4, 5]


def test_a_flipped_byte_is_refused_or_computed_again_and_never_read(tmp_path):
    table, other = torch.randn(6, 4), torch.randn(6, 2, 3).bfloat16()
    store, draw = Store(tmp_path, batches(6, 3)), random.Random(0)
    for name in store.missing():
        items = store.items(name)
        store.write(name, table=table[items.start : items.stop], other=other[items.start : items.stop])
    path = tmp_path / "000001.safetensors"
    whole, refused = path.read_bytes(), 0
    for place in [*range(8), *draw.sample(range(8, len(whole)), 120)]:
        path.write_bytes(whole[:place] + bytes([whole[place] ^ (1 << draw.randrange(8))]) + whole[place + 1 :])
        again = Store(tmp_path, batches(6, 3))
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


def test_batches_without_checksums_are_computed_again(tmp_path, caplog):
    store = Store(tmp_path, batches(2, 2))
    save_file({"table": torch.zeros(2)}, tmp_path / "000000.safetensors")
    assert store.missing() == ["000000"] and "an earlier version wrote it without checksums" in caplog.text


def test_rows_that_are_not_finite_are_not_written(tmp_path):
    store = Store(tmp_path / "videos", batches(4, 2))
    with pytest.raises(ValueError, match="videos, item 3: its table hold NaN or infinite numbers"):
        store.write("000001", table=torch.tensor([1.0, float("inf")]))
    assert not (tmp_path / "videos").exists()


def test_a_process_that_writes_into_another_folder_is_an_error(tmp_path):
    store = Store(tmp_path, batches(4, 2))
    store.write("000000", table=torch.zeros(2))
    with pytest.raises(OSError, match="000001.safetensors: there is no such file, expected it from another process"):
        store.finish(ALONE)


def test_other_files_are_removed_on_request(tmp_path):
    filled(tmp_path, torch.arange(6.0), 2)
    store = Store(tmp_path, {"000002": 2})
    store.keep_only()
    assert [path.name for path in tmp_path.iterdir()] == ["000002.safetensors"] and store.missing() == []


def write_on_a_full_disk(store, said):
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
    try:
        store.write("000001", table=torch.zeros(3, 1000))
    except OSError as error:
        said.send(str(error))


def test_a_full_disk_is_named_and_nothing_half_written_stays(tmp_path):
    store = Store(tmp_path, batches(6, 3))
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
