import json
import multiprocessing
import os
import pickle
import shutil
import time
from contextlib import ExitStack

import pytest
import torch
from helpers.clips import grey, write_video
from helpers.manifest_caches import tower

from stgt.config import VisionConfig
from stgt.data import write_features as writing
from stgt.data.features import FeatureStore
from stgt.data.samples import RetrievalDataset, VideoDataset
from stgt.data.text import Tokenizer
from stgt.data.transforms import describe, eval_transform, train_transform
from stgt.data.video import VideoError
from stgt.data.video_names import VideoNames
from stgt.data.write_features import write_features
from stgt.integrity import DamagedError
from stgt.ownership import claimed
from stgt.weights.tower import tower_hash

VIDEOS = ["a.mp4", "b.mp4", "c.mp4"]
CONFIG = VisionConfig(tower="vit", image_size=16, patch_size=8, width=8, layers=1, heads=2, dtype="float32")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    for number, name in enumerate(VIDEOS):
        write_video(folder / name, [frame + 20 * number for frame in grey(12)])
    return folder


@pytest.fixture
def videos(root):
    return VideoDataset(
        VIDEOS, root, frames=4, transform=train_transform(16, flip=False), sampling="headtail", random=True
    )


@pytest.fixture
def store(videos, tmp_path):
    return write_features(tmp_path / "features", videos, tower, tower_hash="abc", views=3, batch_size=2)


def test_tokens_are_those_of_the_tower_in_bfloat16(root, tmp_path):
    videos = VideoDataset(VIDEOS, root, frames=4, transform=eval_transform(16))
    store = write_features(tmp_path / "features", videos, tower, tower_hash="abc", batch_size=2)
    for index, name in enumerate(VIDEOS):
        tokens = store.read(name)
        assert tokens.shape == (4, 5, 3) and tokens.dtype == torch.bfloat16
        assert torch.equal(tokens, tower(videos[index]["video"][None])[0].to(torch.bfloat16))


def test_views_differ_and_are_the_same_in_every_cache(store, videos, tmp_path):
    views = [store.read("b.mp4", view) for view in range(3)]
    assert not any(torch.equal(views[i], views[j]) for i, j in [(0, 1), (0, 2), (1, 2)])
    torch.manual_seed(77)
    again = write_features(tmp_path / "again", videos, tower, tower_hash="abc", views=3, batch_size=4, workers=1)
    assert all(torch.equal(view, again.read("b.mp4", i)) for i, view in enumerate(views))
    other = write_features(tmp_path / "other", videos, tower, tower_hash="abc", views=3, seed=1)
    assert not torch.equal(other.read("b.mp4"), views[0])


def test_a_reader_picks_a_view_with_torchs_generator(store, root, tmp_path):
    annotation = tmp_path / "pairs.json"
    annotation.write_text(json.dumps([{"video": "b.mp4", "caption": "a grey clip"}]))
    pairs = RetrievalDataset(
        annotation, root, frames=4, transform=None, tokenizer=Tokenizer.train(["a grey clip"], 50), train=True,
        features=store,
    )  # fmt: skip
    seen = set()
    for seed in range(20):
        torch.manual_seed(seed)
        item = pairs[0]
        assert "video" not in item
        seen |= {view for view in range(3) if torch.equal(item["tokens"], store.read("b.mp4", view))}
    assert seen == {0, 1, 2}


def test_an_annotation_of_videos_without_tokens_is_refused(store, root, tmp_path):
    annotation = tmp_path / "pairs.json"
    annotation.write_text(json.dumps([{"video": "d.mp4", "caption": "a grey clip"}]))
    with pytest.raises(ValueError, match="d.mp4 has no tokens in .*features: write them with"):
        RetrievalDataset(annotation, root, frames=4, transform=None, features=store)


def test_a_store_crosses_to_workers(store):
    store.read("a.mp4")
    assert len(pickle.dumps(store)) < 2000
    assert torch.equal(pickle.loads(pickle.dumps(store)).read("c.mp4", 2), store.read("c.mp4", 2))


def test_another_key_is_refused_by_name(store):
    same = {"tower": "abc", "transform": describe(train_transform(16, flip=False)), "frames": 4, "sampling": "headtail"}
    store.require(**same, views=3)
    other = describe(eval_transform(16))
    differing = {"tower": "abd", "transform": other, "frames": 8, "sampling": "uniform", "views": 1}
    for name, value in differing.items():
        with pytest.raises(ValueError) as error:
            store.require(**same | {name: value})
        message = str(error.value)
        assert f"{name} is {getattr(store.key, name)!r} in the cache and {value!r} in this run" in message
        assert message.count(" in this run") == 1


def test_a_whole_cache_is_not_written_again(store, videos, tmp_path):
    def never(video):
        raise AssertionError("the tower ran")

    arguments = {"tower_hash": "abc", "views": 3}
    assert write_features(tmp_path / "features", videos, never, **arguments).key == store.key
    for name, there, here in (("views", 3, 2), ("seed", 0, 1)):
        with pytest.raises(ValueError, match=f"{name} is {there} in the cache and {here} in this run"):
            write_features(tmp_path / "features", videos, never, **arguments | {name: here})
    videos.videos = VideoNames([*videos.videos, "d.mp4"], videos.root, opened=False)
    with pytest.raises(ValueError, match="lacks 1 videos, the first is d.mp4"):
        write_features(tmp_path / "features", videos, never, **arguments)


def counting(shown):
    """The tower, which appends the number of its clips to `shown`."""

    def count(video):
        shown.append(len(video))
        return tower(video)

    return count


def test_a_failure_keeps_what_was_written_and_a_repeated_call_computes_the_rest(videos, tmp_path):
    def fail_at_the_third(video):
        if len(shown) == 2:
            raise RuntimeError("out of memory")
        return counting(shown)(video)

    shown, arguments = [], dict(tower_hash="abc", batch_size=1)
    with pytest.raises(RuntimeError, match="out of memory"):
        write_features(tmp_path / "features", videos, fail_at_the_third, **arguments)
    with pytest.raises(ValueError, match="features is not complete"):
        FeatureStore(tmp_path / "features")
    store = write_features(tmp_path / "features", videos, counting(shown), **arguments)
    assert shown == [1, 1, 1]
    whole = write_features(tmp_path / "whole", videos, tower, **arguments)
    assert FeatureStore(store.folder).sha256() == whole.sha256()


def test_only_what_is_left_needs_room_when_another_process_has_let_a_batch_go(videos, tmp_path, monkeypatch):
    folder, arguments = tmp_path / "features", dict(tower_hash="abc", batch_size=1)
    whole = write_features(folder, videos, tower, **arguments)
    for number in range(3):
        whole.tokens.path(f"{number:06}").unlink()
    asked = []
    monkeypatch.setattr(writing, "_require_room", lambda folder, needed: asked.append(needed))
    with ExitStack() as other:
        other.enter_context(claimed(whole.tokens.path("000000")))

        def end_the_other(video):
            other.close()
            return tower(video)

        write_features(folder, videos, end_the_other, **arguments)
    size = whole.read("a.mp4").nbytes
    assert asked == [3 * size, size]


def test_a_video_that_cannot_be_read_is_named_and_those_before_it_are_kept(root, tmp_path):
    shutil.copytree(root, tmp_path / "videos")
    (tmp_path / "videos" / "b.mp4").write_bytes(b"no video")
    videos = VideoDataset(VIDEOS, tmp_path / "videos", frames=4, transform=eval_transform(16))
    with pytest.raises(VideoError, match="b.mp4"):
        write_features(tmp_path / "features", videos, tower, tower_hash="abc", batch_size=1)
    assert [path.name for path in tmp_path.rglob("*.safetensors")] == ["000000.safetensors"]


def test_a_cache_that_was_begun_for_other_videos_is_not_finished_with_these(store, videos, tmp_path):
    store.tokens.path("000001").unlink()
    videos.videos = VideoNames([video for video in VIDEOS if video != "b.mp4"], videos.root, opened=False)
    with pytest.raises(ValueError, match="features is not complete, and was begun for other videos"):
        write_features(tmp_path / "features", videos, tower, tower_hash="abc", views=3)


def test_the_tower_sees_no_more_clips_than_the_batch_of_this_call(store, videos, tmp_path):
    whole, shown = store.read("b.mp4", 1), []
    store.tokens.path("000002").unlink()
    again = write_features(store.folder, videos, counting(shown), tower_hash="abc", views=3, batch_size=1)
    assert shown == [1, 1] and torch.equal(again.read("b.mp4", 1), whole)


def write_together(folder, videos, said):
    torch.set_num_threads(1)

    def together(video):
        """The tower, which waits until each of three processes has a clip."""
        with open(said, "a") as file:
            file.write(f"{os.getpid()}\n")
        while len(set(said.read_text().split())) < 3:
            time.sleep(0.01)
        return tower(video)

    write_features(folder, videos, together, tower_hash="abc", views=20, batch_size=1)


def test_several_processes_write_one_cache_even_if_one_of_them_is_killed(videos, tmp_path):
    context, said = multiprocessing.get_context("fork"), tmp_path / "said"
    said.touch()
    started = [context.Process(target=write_together, args=(tmp_path / "shared", videos, said)) for _ in range(3)]
    for process in started:
        process.start()
    killed, *others = started
    while str(killed.pid) not in said.read_text().split():
        assert killed.is_alive()
        time.sleep(0.01)
    killed.kill()
    for process in started:
        process.join()
    shown = said.read_text().split()
    assert [process.exitcode for process in others] == [0, 0]
    assert 60 <= len(shown) <= 61 and {str(process.pid) for process in started} == set(shown)
    alone = write_features(tmp_path / "alone", videos, tower, tower_hash="abc", views=20, batch_size=1)
    assert FeatureStore(tmp_path / "shared").sha256() == alone.sha256()
    left = {path.relative_to(tmp_path / "shared") for path in (tmp_path / "shared").rglob("*")}
    assert left == {path.relative_to(alone.folder) for path in alone.folder.rglob("*")}


def test_a_full_disk_is_known_before_it_is_full(videos, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=100)
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage)
    with pytest.raises(OSError, match=r"the features take [1-9][\d,]+ bytes, and the disk .* has 100"):
        write_features(tmp_path / "features", videos, tower, tower_hash="abc")
    assert not list(tmp_path.rglob("*.safetensors"))


def test_a_folder_that_is_no_cache_is_refused(store, videos, tmp_path):
    with pytest.raises(ValueError, match="nothing is no folder that `stgt data features` wrote"):
        FeatureStore(tmp_path / "nothing")
    with pytest.raises(ValueError, match="is no folder that `stgt data features` wrote: it holds features and no"):
        write_features(tmp_path, videos, tower, tower_hash="abc")
    assert os.listdir(tmp_path) == ["features"]
    tokens = store.tokens.path("000001")
    tokens.write_bytes(tokens.read_bytes()[:-2])
    cut = FeatureStore(store.folder)  # a complete cache is not looked through, so that its size does not matter
    with pytest.raises(DamagedError, match="000001.safetensors: .*; it holds view 0 of b.mp4"):
        cut.read("b.mp4")
    (store.complete).unlink()
    with pytest.raises(ValueError, match="features is not complete.*000001.safetensors: it is damaged: "):
        FeatureStore(store.folder)


def test_several_views_need_random_draws_and_a_batch_holds_something(root, tmp_path):
    videos = VideoDataset(VIDEOS, root, frames=4, transform=eval_transform(16))
    with pytest.raises(ValueError, match="views is 2, expected 1, or more for"):
        write_features(tmp_path / "features", videos, tower, tower_hash="abc", views=2)
    with pytest.raises(ValueError, match="batch_size is 0, expected at least 1"):
        write_features(tmp_path / "features", videos, tower, tower_hash="abc", batch_size=0)
    assert not (tmp_path / "features").exists()


def test_the_hash_of_a_tower_depends_on_its_weights_and_settings():
    weights = {"a": torch.ones(2, 3), "b": torch.zeros(4, dtype=torch.bfloat16)}
    settings = dict(tower="vit", image_size=16, patch_size=8, width=8, heads=2, layers=1)
    first = tower_hash(weights, VisionConfig(**settings))
    assert first == tower_hash(dict(reversed(weights.items())), VisionConfig(**settings, pretrained="somewhere"))
    changed = [
        tower_hash(weights | {"a": torch.ones(3, 2)}, VisionConfig(**settings)),
        tower_hash(weights | {"a": torch.ones(2, 3) + 1e-6}, VisionConfig(**settings)),
        tower_hash(weights | {"b": torch.zeros(2)}, VisionConfig(**settings)),
        tower_hash(weights, VisionConfig(**settings | {"heads": 4})),
    ]
    assert len({first, *changed}) == 5
