"""A feature cache that was changed, or that belongs to other videos, is refused with the reason."""

import json
import os
import random
import shutil

import pytest
import torch
from helpers.clips import grey, write_video
from helpers.manifest_caches import tower
from torch.utils.data import DataLoader

from stgt.data.features import FeatureStore
from stgt.data.samples import VideoDataset
from stgt.data.transforms import eval_transform
from stgt.data.write_features import write_features
from stgt.integrity import DamagedError, sealed

VIDEOS = ["a.mp4", "b.mp4"]


@pytest.fixture
def root(tmp_path):
    (tmp_path / "videos").mkdir()
    for number, name in enumerate(VIDEOS):
        write_video(tmp_path / "videos" / name, [frame + 20 * number for frame in grey(12)])
    return tmp_path / "videos"


@pytest.fixture
def videos(root):
    return VideoDataset(VIDEOS, root, frames=2, transform=eval_transform(16), random=True)


@pytest.fixture
def store(videos, tmp_path):
    return write_features(tmp_path / "features", videos, tower, tower_hash="abc", views=2)


def read_all(folder, root):
    store = FeatureStore(folder)
    assert store.changed_videos(root) == []
    return [store.read(video, view) for video in VIDEOS for view in range(2)]


@pytest.mark.parametrize(
    "name", ["000000.safetensors", "features.json", "data.fingerprint", "videos.npy", "complete.json"]
)
def test_a_flipped_byte_is_noticed_wherever_it_is(name, store, root):
    (path,), draw = store.folder.rglob(name), random.Random(name)
    whole = path.read_bytes()
    for place in draw.sample(range(len(whole)), min(25, len(whole))):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ (1 << draw.randrange(8))]) + whole[place + 1 :])
        with pytest.raises(ValueError, match=name):
            read_all(store.folder, root)
    path.write_bytes(whole)
    read_all(store.folder, root)


def test_workers_report_damage_too_and_one_file_is_enough_to_repair_it(videos, tmp_path):
    store = write_features(tmp_path / "features", videos, tower, tower_hash="abc", views=2, batch_size=2)
    whole, path = store.read("b.mp4", 1), store.tokens.path("000001")
    before, row, after = path.read_bytes().rpartition(whole.view(torch.int8).numpy().tobytes())
    path.write_bytes(before + row[:-1] + bytes([row[-1] ^ 1]) + after)
    clips = VideoDataset(VIDEOS, videos.root, frames=2, transform=None, features=FeatureStore(store.folder))
    clips[0]
    message = r"000001.safetensors: tokens was changed or damaged .*; it holds view 1 of b.mp4"
    with pytest.raises(DamagedError, match=message):
        store.read("b.mp4", 1)
    clips.random = True
    with pytest.raises(DamagedError, match=message):
        list(DataLoader(clips, num_workers=1, sampler=[1] * 20, generator=torch.Generator().manual_seed(0)))
    path.unlink()
    with pytest.raises(
        DamagedError, match="000001.safetensors: there is no such file; the command that wrote it .*view 1 of"
    ):
        FeatureStore(store.folder).read("b.mp4", 1)
    write_features(store.folder, videos, tower, tower_hash="abc", views=2)
    assert torch.equal(FeatureStore(store.folder).read("b.mp4", 1), whole)


def test_a_cache_of_version_0_1_0_is_refused_with_what_to_do(store):
    index = json.loads((store.folder / "features.json").read_text())
    del index["key"]["decoder"]
    for key in ("sha256", "format", "fingerprint"):
        del index[key]
    (store.folder / "features.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match="another version of stgt, .* may have read other frames: remove"):
        FeatureStore(store.folder)


def test_a_cache_of_an_earlier_format_is_refused_and_not_added_to(store, videos):
    (store.folder / "features.json").write_text(sealed({"format": 2, "checksums": "ab", "videos": VIDEOS}))
    before = sorted(store.folder.rglob("*"))
    for opened in (FeatureStore, lambda folder: write_features(folder, videos, tower, tower_hash="abc", views=2)):
        with pytest.raises(ValueError, match="another version of stgt, in another format .*: remove the folder"):
            opened(store.folder)
    assert sorted(store.folder.rglob("*")) == before


def test_tokens_of_other_videos_are_not_read_even_if_the_index_was_lost(store, videos, root):
    exchanged = store.read("b.mp4"), store.read("a.mp4")
    (store.folder / "features.json").unlink()
    with pytest.raises(ValueError, match="it holds tokens-.* and no features.json; expected an empty folder"):
        write_features(store.folder, videos, tower, tower_hash="abc", views=2)
    (root / "a.mp4").rename(root / "x.mp4")
    (root / "b.mp4").rename(root / "a.mp4")
    (root / "x.mp4").rename(root / "b.mp4")
    again = write_features(store.folder.with_name("again"), videos, tower, tower_hash="abc", views=2)
    assert again.tokens.folder.name != store.tokens.folder.name
    assert all(torch.equal(again.read(video), tokens) for video, tokens in zip(VIDEOS, exchanged, strict=True))


def test_another_decoder_is_refused_by_name(store, videos, monkeypatch):
    monkeypatch.setattr(type(videos), "decoder_version", "PyAV 99")
    with pytest.raises(ValueError, match="decoder is '.+' in the cache and 'PyAV 99' in this run"):
        write_features(store.folder, videos, tower, tower_hash="abc", views=2)


def test_videos_exchanged_under_the_same_names_are_named_unless_they_are_accepted(store, videos, root, caplog):
    shutil.move(root / "a.mp4", root / "x.mp4")
    shutil.move(root / "b.mp4", root / "a.mp4")
    shutil.move(root / "x.mp4", root / "b.mp4")
    arguments = dict(tower_hash="abc", views=2)
    with pytest.raises(ValueError, match=r"was made of other videos:\n  a.mp4: \d+ bytes of .*, there \d+ bytes of "):
        write_features(store.folder, videos, tower, **arguments)
    again = write_features(store.folder, videos, tower, accept_changed=True, **arguments)
    assert again.key == store.key and "was made of other videos" in caplog.text
    (root / "a.mp4").unlink()
    (root / "b.mp4").unlink()
    assert store.changed_videos(root) == []  # missing videos do not count as changed


def test_a_copied_data_set_is_known_by_its_contents(videos, root, tmp_path):
    store = write_features(tmp_path / "features", videos, tower, tower_hash="abc", contents=True)
    for name in VIDEOS:
        os.utime(root / name, ns=(0, 0))
    assert store.changed_videos(root) == []
    content = bytearray((root / "a.mp4").read_bytes())
    content[-1] ^= 1
    (root / "a.mp4").write_bytes(content)
    assert [line.split(":")[0] for line in store.changed_videos(root)] == ["a.mp4"]


def test_tokens_that_are_not_finite_are_refused_with_their_video(videos, tmp_path):
    def broken(video):
        tokens = tower(video).clone()
        tokens[-1, 0, 0, 0] = float("nan")
        return tokens

    with pytest.raises(ValueError, match="b.mp4: the tower's tokens hold NaN"):
        write_features(tmp_path / "features", videos, broken, tower_hash="abc", batch_size=4)
    assert not list(tmp_path.rglob("*.safetensors"))
