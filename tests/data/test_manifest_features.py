"""A feature cache of a manifest holds the tokens of its rows, whatever their names, and knows what has changed."""

import json
import multiprocessing
import os
import pickle
import signal
from functools import partial

import pytest
import torch
from helpers.clips import grey, write_video
from helpers.forks import Fork
from helpers.items import make_items
from helpers.manifest_caches import NAMES, dataset, deadly, pairs, tower, write, write_clips
from helpers.ranges import serving_ranges

from stgt.data import fingerprint as fingerprint_module
from stgt.data import store as store_module
from stgt.data.batch_names import NumberedBatches
from stgt.data.errors import StoreError
from stgt.data.features import FeatureStore
from stgt.data.manifest.cache import open_manifest
from stgt.data.shards import member as member_module
from stgt.data.transforms import eval_transform
from stgt.data.write_features import write_features

fsspec = pytest.importorskip("fsspec", reason="pip install fsspec aiohttp")
pd = pytest.importorskip("pandas", reason="pip install pandas")
pytest.importorskip("pyarrow", reason="pip install pyarrow")


@pytest.fixture
def root(tmp_path):
    return write_clips(tmp_path)


@pytest.mark.parametrize("kind", ["loose", "packed"])
def test_a_cache_of_a_manifest_has_the_bits_of_a_cache_of_names(kind, root, tmp_path):
    names = write(tmp_path / "names", dataset(NAMES, root), tower, views=2)
    store = write(tmp_path / kind, dataset(tmp_path / f"{kind}.parquet", root), tower, views=2, workers=1)
    assert torch.equal(store.tokens.all("tokens"), names.tokens.all("tokens"))
    rows = open_manifest(tmp_path / f"{kind}.parquet")
    for number, name in enumerate(NAMES):  # also where members of one shard, and of two, have one name
        for view in range(2):
            assert torch.equal(store.read(rows.row(number).place, view), names.read(name, view))
    assert len({tuple(store.read(rows.row(number).place).flatten().tolist()) for number in range(4)}) == 4


def test_tokens_are_those_of_the_clip_that_training_would_read(root, tmp_path):
    manifest = tmp_path / "packed.parquet"
    store = write(tmp_path / "cache", dataset(manifest, root, transform=eval_transform(16), sampling="uniform"), tower)
    shown = make_items(manifest, root, train=False)
    cached = pairs(manifest, root, store, train=False)
    for index in range(4):
        expected = tower(shown[index]["video"][None])[0].to(torch.bfloat16)
        assert torch.equal(cached[index]["tokens"], expected) and cached[index]["path"] == shown[index]["path"]


def test_a_video_of_several_rows_and_annotations_is_computed_once(root, tmp_path):
    frame = pd.read_parquet(tmp_path / "packed.parquet")
    pd.concat([frame.iloc[[1, 0, 1]], frame.iloc[:2]]).to_parquet(tmp_path / "train.parquet")
    frame.iloc[[3, 0]].to_parquet(tmp_path / "val.parquet")
    shown = []

    def counting(video):
        shown.append(len(video))
        return tower(video)

    parts = [dataset(tmp_path / f"{split}.parquet", root) for split in ("train", "val")]
    store = write(tmp_path / "cache", [*parts, dataset(["a.mp4", "b.mp4"], root)], counting)
    assert sum(shown) == 5 and store.shape == (5, 1, 4, 5, 3)
    assert len(pairs(tmp_path / "train.parquet", root, store)) == 5
    other = frame.iloc[[3]].assign(video="another.mp4", caption="another caption")
    other.to_parquet(tmp_path / "other.parquet")  # the same bytes of the same shard are the same video
    (item,) = pairs(tmp_path / "other.parquet", root, store, train=False)
    assert torch.equal(item["tokens"], store.read(open_manifest(tmp_path / "val.parquet").row(0).place))
    with pytest.raises(ValueError, match=r"packed.parquet: 1.tar/x.mp4 at offset 512 has no tokens in .*cache: write"):
        pairs(tmp_path / "packed.parquet", root, store)
    frame.assign(size=frame["size"] + 1).to_parquet(tmp_path / "sizes.parquet")
    with pytest.raises(ValueError, match=r"sizes.parquet: 0.tar/x.mp4 at offset 512 has no tokens"):
        pairs(tmp_path / "sizes.parquet", root, store)


def test_a_cache_of_loose_files_serves_manifests_and_names(root, tmp_path):
    (tmp_path / "names.json").write_text(json.dumps([{"video": name, "caption": "a clip"} for name in NAMES]))
    made = {kind: dataset(videos, root) for kind, videos in (("json", NAMES), ("parquet", tmp_path / "loose.parquet"))}
    for kind, videos in made.items():
        store = write(tmp_path / kind, videos, tower)
        for annotation in ("names.json", "loose.parquet"):
            assert torch.equal(pairs(tmp_path / annotation, root, store)[2]["tokens"], store.read("c.mp4"))


def test_a_changed_file_is_refused_by_name_when_its_tokens_are_read(root, tmp_path, caplog):
    manifest = tmp_path / "loose.parquet"
    store = write(tmp_path / "cache", dataset(manifest, root), tower)
    write_video(root / "b.mp4", grey(9))
    (root / "c.mp4").unlink()  # missing videos do not count as changed
    items = pairs(manifest, root, FeatureStore(store.folder))
    with pytest.raises(ValueError, match=r"cache was made of other data:\n  b.mp4: \d+ bytes of .*, there \d+ bytes"):
        items[1]
    assert "tokens" in items[0] and "tokens" in items[2]
    warned = pairs(manifest, root, FeatureStore(store.folder, accept_changed=True))
    assert torch.equal(warned[1]["tokens"], store.read("b.mp4")) and "b.mp4: " in caplog.text


def test_a_copy_of_a_file_is_known_by_its_contents(root, tmp_path):
    manifest = tmp_path / "loose.parquet"
    store = write(tmp_path / "cache", dataset(manifest, root), tower, contents=True)
    os.utime(root / "a.mp4", ns=(0, 0))
    items = pairs(manifest, root, store)
    assert "tokens" in items[0]
    contents = bytearray((root / "a.mp4").read_bytes())
    contents[-1] ^= 1
    (root / "a.mp4").write_bytes(contents)
    with pytest.raises(ValueError, match="a.mp4: SHA-256"):
        items[0]


def test_a_replaced_shard_is_refused_by_name(root, tmp_path):
    manifest = dataset(tmp_path / "packed.parquet", root)
    store = write(tmp_path / "cache", manifest, tower)
    assert store.changed_videos(root) == []
    with open(root / "1.tar", "ab") as shard:
        shard.write(bytes(512))
    (changed,) = store.changed_videos(root)
    assert changed.startswith("1.tar: ")
    with pytest.raises(ValueError, match=r"was made of other videos:\n  1.tar: \d+ bytes of .*, there \d+ bytes of "):
        write(tmp_path / "cache", manifest, tower)


def test_shards_in_a_store_and_on_a_server_are_read_by_range(root, tmp_path, monkeypatch):
    monkeypatch.setattr(member_module, "_WAIT", 0.0)
    local = write(tmp_path / "local", dataset(tmp_path / "packed.parquet", root), tower)
    frame, memory = pd.read_parquet(tmp_path / "packed.parquet"), fsspec.filesystem("memory")
    memory.put(str(root / "0.tar"), "/bucket/0.tar")
    memory.put(str(root / "1.tar"), "/bucket/1.tar")
    try:
        frame.assign(shard="memory://bucket/" + frame["shard"]).to_parquet(tmp_path / "memory.parquet")
        store = write(tmp_path / "memory", dataset(tmp_path / "memory.parquet", tmp_path), tower)
        assert torch.equal(store.tokens.all("tokens"), local.tokens.all("tokens"))
    finally:
        memory.store.clear()
    with serving_ranges(root) as (address, answered):
        frame.assign(shard=address + "/" + frame["shard"]).to_parquet(tmp_path / "server.parquet")
        videos = dataset(tmp_path / "server.parquet", tmp_path)
        store = write(tmp_path / "server", videos, tower, workers=1)
        assert torch.equal(store.tokens.all("tokens"), local.tokens.all("tokens"))
        assert len(answered) == 4 and sum(len(asked) for _, asked in answered) < 4 * 4096 + frame["size"].sum()
    with pytest.raises(StoreError, match=f"{address}/0.tar"):  # a server that is away says nothing about the clips
        write(tmp_path / "away", videos, tower)
    assert torch.equal(pairs(tmp_path / "server.parquet", tmp_path, store)[3]["tokens"], local.tokens.all("tokens")[3])


def test_a_killed_command_goes_on_and_ends_with_the_same_cache(root, tmp_path):
    videos, folder = dataset(tmp_path / "packed.parquet", root), tmp_path / "cache"
    whole = write(tmp_path / "whole", videos, tower, views=3)
    killed = Fork(partial(write, views=3), folder, videos, partial(deadly, [4]))
    assert killed.finish()[0] == -signal.SIGKILL
    assert len([*folder.rglob("*.safetensors")]) == 4
    with pytest.raises(ValueError, match="cache is not complete"):
        FeatureStore(folder)
    frame = pd.read_parquet(tmp_path / "packed.parquet")
    frame.iloc[:3].to_parquet(tmp_path / "fewer.parquet")
    with pytest.raises(ValueError, match="cache is not complete, and was begun for other videos"):
        write(folder, dataset(tmp_path / "fewer.parquet", root), tower, views=3)
    shown = [2]
    store = write(folder, videos, partial(deadly, shown), views=3)
    assert shown == [0] and FeatureStore(folder).sha256() == whole.sha256()
    assert torch.equal(store.tokens.all("tokens"), whole.tokens.all("tokens"))
    left = {path.relative_to(folder) for path in folder.rglob("*")}
    assert left == {path.relative_to(whole.folder) for path in whole.folder.rglob("*")}


def write_with(folder, manifest, root, said, barrier):
    torch.set_num_threads(1)
    waited = []

    def together(video):
        if not waited:
            waited.append(barrier.wait(60))
        with open(said, "a") as file:
            file.write(f"{os.getpid()}\n")
        return tower(video)

    write_features(folder, dataset(manifest, root), together, tower_hash="abc", batch_size=1, views=6)


def test_two_processes_share_the_work(root, tmp_path):
    context, said = multiprocessing.get_context("fork"), tmp_path / "said"
    barrier = context.Barrier(2)
    arguments = (tmp_path / "shared", tmp_path / "packed.parquet", root, said, barrier)
    started = [context.Process(target=write_with, args=arguments) for _ in range(2)]
    for process in started:
        process.start()
    for process in started:
        process.join(timeout=120)
    assert [process.exitcode for process in started] == [0, 0]
    computed = said.read_text().split()
    assert len(computed) == 24 and set(computed) == {str(process.pid) for process in started}
    alone = write_features(
        tmp_path / "alone", dataset(tmp_path / "packed.parquet", root), tower, tower_hash="abc", batch_size=1, views=6
    )
    assert FeatureStore(tmp_path / "shared").sha256() == alone.sha256()


def test_opening_a_complete_cache_looks_at_no_video_and_no_file_of_tokens(root, tmp_path, monkeypatch):
    manifest = tmp_path / "loose.parquet"
    store = write(tmp_path / "cache", dataset(manifest, root), tower)
    looked, stat = [], os.stat
    monkeypatch.setattr(store_module, "safe_open", lambda path, *_: looked.append(str(path)))
    monkeypatch.setattr(os, "stat", lambda path, **options: looked.append(str(path)) or stat(path, **options))
    opened = FeatureStore(store.folder)
    assert opened.sha256() == store.sha256() and opened.changed_videos(root) == []
    items = pairs(manifest, root, opened)
    assert len(items) == 4 and not [path for path in looked if path.endswith((".mp4", ".safetensors"))]
    assert len(pickle.dumps(opened)) < 2000  # what each process that reads is sent


def test_names_that_are_in_memory_do_not_grow_with_the_cache():
    few, many = (store_module.Store(None, NumberedBatches(count, 16)) for count in (32, 10**7))
    assert len(pickle.dumps(many)) < len(pickle.dumps(few)) + 20
    assert len(many.names) == 625_000 and many.items("624999") == range(9_999_984, 10**7)
    assert many.names.holding(9_999_983) == "624998" and "625000" not in many.names and "7" not in many.names
    assert list(NumberedBatches(33, 16).items()) == [
        ("000000", range(16)), ("000001", range(16, 32)), ("000002", range(32, 33))
    ]  # fmt: skip


def test_accepted_changes_are_told_once(root, tmp_path, caplog):
    store = write(tmp_path / "cache", dataset(tmp_path / "loose.parquet", root), tower)
    for name in NAMES:
        write_video(root / name, grey(9))
    caplog.clear()
    accepting = FeatureStore(store.folder, accept_changed=True)
    for name in NAMES * 2:
        assert torch.equal(accepting.read(name, root=root), store.read(name))
    assert caplog.text.count("was made of other data") == 1 and "a.mp4: " in caplog.text


def test_files_that_a_cache_of_a_manifest_got_from_names_are_compared_too(root, tmp_path):
    manifest, folder = dataset(tmp_path / "loose.parquet", root), tmp_path / "cache"
    write(folder, manifest, tower)
    next(folder.rglob("000000.safetensors")).unlink()
    store = write(folder, dataset(NAMES, root), tower)  # the same videos by their names
    write_video(root / "b.mp4", grey(9))
    with pytest.raises(ValueError, match="was made of other data:\n  b.mp4: "):
        store.read("b.mp4", root=root)


def test_contents_are_compared_on_request_and_read_once_for_each_state(root, tmp_path, monkeypatch):
    write(tmp_path / "cache", dataset(tmp_path / "loose.parquet", root), tower, contents=True, views=3)
    hashed, file_hash = [], fingerprint_module.file_hash
    monkeypatch.setattr(fingerprint_module, "file_hash", lambda path: hashed.append(str(path)) or file_hash(path))
    write(tmp_path / "again", dataset(tmp_path / "loose.parquet", root), tower, contents=True, views=3, batch_size=16)
    assert sorted(path[-5:] for path in hashed if path.endswith(".mp4")) == NAMES  # once, not for each view
    hashed.clear()
    store = FeatureStore(tmp_path / "cache", contents=True)
    for view in range(3):
        store.read("a.mp4", view, root=root)
    assert [path[-5:] for path in hashed if path.endswith(".mp4")] == ["a.mp4"]
    status, contents = (root / "a.mp4").stat(), bytearray((root / "a.mp4").read_bytes())
    contents[-1] ^= 1
    (root / "a.mp4").write_bytes(contents)
    os.utime(root / "a.mp4", ns=(status.st_atime_ns, status.st_mtime_ns))  # the same size and time
    with pytest.raises(ValueError, match="a.mp4: SHA-256"):
        FeatureStore(store.folder, contents=True).read("a.mp4", root=root)


def test_rows_that_call_the_same_bytes_an_image_have_other_tokens(root, tmp_path):
    store = write(tmp_path / "cache", dataset(tmp_path / "packed.parquet", root), tower)
    for name in ("packed", "loose"):
        pd.read_parquet(tmp_path / f"{name}.parquet").assign(image=True).to_parquet(tmp_path / f"{name}-images.parquet")
        with pytest.raises(ValueError, match="has no tokens in"):
            pairs(tmp_path / f"{name}-images.parquet", root, store)


def test_a_process_whose_first_look_is_old_leaves_a_complete_cache_alone(root, tmp_path, monkeypatch):
    videos = dataset(tmp_path / "loose.parquet", root)
    store = write(tmp_path / "cache", videos, tower)
    missing, looks = store_module.Store.missing, []

    def late(self, world=None):
        looks.append(self)
        return ["000000"] if len(looks) == 1 else missing(self, world)

    monkeypatch.setattr(store_module.Store, "missing", late)
    before = store.complete.stat().st_ino
    write(tmp_path / "cache", videos, tower)
    assert store.complete.stat().st_ino == before
