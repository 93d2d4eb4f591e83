"""A feature cache of a manifest marks single videos that cannot be read, and an outage ends the command."""

import json
import signal
from functools import partial

import pytest
import torch
from helpers.forks import Fork
from helpers.manifest_caches import NAMES, broken, dataset, deadly, pairs, tower, write, write_clips

from stgt.data.features import FeatureStore
from stgt.data.video import VideoError

pd = pytest.importorskip("pandas", reason="pip install pandas")
pytest.importorskip("pyarrow", reason="pip install pyarrow")


@pytest.fixture
def root(tmp_path):
    return write_clips(tmp_path)


@pytest.mark.parametrize("damage", ["missing", "damaged"])
def test_the_pair_of_a_video_that_cannot_be_read_is_replaced(damage, root, tmp_path, caplog):
    manifest = tmp_path / "loose.parquet"
    if damage == "missing":
        (root / "b.mp4").unlink()
    else:
        (root / "b.mp4").write_bytes(b"no video")
    for workers in (0, 1):
        store = write(tmp_path / f"cache{workers}", dataset(manifest, root), tower, workers=workers)
    assert "1 of the 4 videos were listed as bad or could not be read, the first is b.mp4" in caplog.text
    assert FeatureStore(store.folder).shape == (4, 1, 4, 5, 3)
    items = pairs(manifest, root, store)
    torch.manual_seed(0)
    found = items[1]
    assert found["replaced"] >= 1 and not found["path"].endswith("b.mp4")
    with pytest.raises(
        VideoError, match="b.mp4: it was listed as bad, or could not be read, when .*000000.safetensors was c"
    ):
        items.clip(1)
    assert [items[index]["replaced"] for index in (0, 2, 3)] == [0, 0, 0]


def test_a_video_that_ended_a_command_can_be_listed_as_bad_afterwards(root, tmp_path, caplog):
    videos, folder = dataset(tmp_path / "packed.parquet", root), tmp_path / "cache"

    def fail(video):
        raise RuntimeError("a clip that makes a decoder crash")

    with pytest.raises(RuntimeError, match="makes a decoder crash"):
        write(folder, videos, fail)
    with open(root / "0.tar", "r+b") as shard:  # a clip that must not be opened
        shard.seek(512)
        shard.write(bytes(200))
    store = write(folder, videos, tower, bad={"0.tar/x.mp4"}, accept_changed=True)
    assert "0.tar/x.mp4: it is listed as bad" in caplog.text
    frame = pd.read_parquet(tmp_path / "packed.parquet")
    (tmp_path / "bad.json").write_text(json.dumps({"0.tar/x.mp4": "crashes"}))
    items = pairs(tmp_path / "packed.parquet", root, store, bad_list=tmp_path / "bad.json")
    assert len(items) == 2 and items[0]["replaced"] == 0 and len(frame) == 4


def test_an_outage_ends_the_command_and_a_repeated_one_tries_again(root, tmp_path):
    manifest, folder = tmp_path / "loose.parquet", tmp_path / "cache"
    good = {name: (root / name).read_bytes() for name in NAMES}
    broken(root, NAMES[1:])
    with pytest.raises(VideoError, match="d.mp4: it and the 2 videos before it could not be read, expected at most 2 "):
        write(folder, dataset(manifest, root), tower, batch_size=1, max_replacements=2)
    assert [path.name for path in folder.rglob("0*.safetensors")] == ["000000.safetensors"]  # no grey tokens are left
    for name, contents in good.items():
        (root / name).write_bytes(contents)
    store = write(folder, dataset(manifest, root), tower, batch_size=1, accept_changed=True)
    assert store.unread() == (0, "") and store.tokens.all("state")[:, 0].all()
    broken(root, NAMES[:3])
    with pytest.raises(VideoError, match="c.mp4: it and the 2 videos before"):  # the fourth, in the same file, is fine
        write(tmp_path / "within", dataset(manifest, root), tower, batch_size=4, max_replacements=2)
    broken(root)
    with pytest.raises(VideoError, match="expected at most 3 in a row"):  # all that there are, although ten are allowed
        write(tmp_path / "all", dataset(manifest, root), tower)
    bad = dict.fromkeys(NAMES)  # videos that are listed on purpose are no outage
    assert write(tmp_path / "listed", dataset(manifest, root), tower, bad=bad).unread() == (4, "a.mp4")


def test_a_folder_and_a_shard_that_are_missing_are_refused_at_once(root, tmp_path):
    with pytest.raises(VideoError, match="nowhere: there is no such folder, expected the videos of .*loose.parquet"):
        write(tmp_path / "one", dataset(tmp_path / "loose.parquet", tmp_path / "nowhere"), tower)
    (root / "1.tar").unlink()
    with pytest.raises(VideoError, match="1.tar: no such file"):
        write(tmp_path / "two", dataset(tmp_path / "packed.parquet", root), tower)
    assert not [*tmp_path.rglob("0*.safetensors")]


def test_videos_that_were_not_read_are_counted_after_a_resume_and_told_again(root, tmp_path, caplog):
    folder, videos = tmp_path / "cache", dataset(tmp_path / "packed.parquet", root)
    for shard in ("0.tar", "1.tar"):  # a member of each shard, under the one name x.mp4
        with open(root / shard, "r+b") as file:
            file.seek(512)
            file.write(bytes(200))
    killed = Fork(write, folder, videos, partial(deadly, [1]))
    assert killed.finish()[0] == -signal.SIGKILL and len([*folder.rglob("0*.safetensors")]) == 1
    told = "2 of the 4 videos were listed as bad or could not be read, the first is 0.tar/x.mp4; training replaces"
    for _ in range(2):
        caplog.clear()
        assert write(folder, videos, tower).unread() == (2, "0.tar/x.mp4") and told in caplog.text


def test_validation_refuses_a_video_that_was_not_read(root, tmp_path):
    manifest = tmp_path / "loose.parquet"
    broken(root, ["b.mp4"])
    store = write(tmp_path / "cache", dataset(manifest, root), tower)
    with pytest.raises(ValueError, match=r"loose.parquet: b.mp4 was listed as bad or could not be .* --data.bad-list"):
        pairs(manifest, root, store, train=False)
    (tmp_path / "bad.json").write_text(json.dumps({"b.mp4": "no video"}))
    assert len(pairs(manifest, root, store, train=False, bad_list=tmp_path / "bad.json")) == 3
