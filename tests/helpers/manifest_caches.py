"""Feature caches of manifests: four clips, loose and in shards, with a small tower."""

import os
import signal
from functools import partial

import torch
from torch import nn

from helpers.clips import grey, write_video
from helpers.items import make_items
from helpers.shards import write_shard
from stgt.data.manifest.cache import open_manifest
from stgt.data.samples import VideoDataset
from stgt.data.text import Tokenizer
from stgt.data.transforms import train_transform
from stgt.data.write_features import write_features

NAMES = ["a.mp4", "b.mp4", "c.mp4", "d.mp4"]
write = partial(write_features, tower_hash="abc", batch_size=2)


def tower(video):
    """(B, T, 3, 16, 16) → (B, T, 1+4, 3): the mean of the frame and the means of four patches."""
    patches = nn.functional.avg_pool2d(video.flatten(0, 1), 8).flatten(2).transpose(1, 2)
    return torch.cat([patches.mean(1, keepdim=True), patches], 1).unflatten(0, video.shape[:2])


def write_clips(tmp_path):
    """A folder of four clips, which also holds the shards 0.tar and 1.tar.

    Each shard has two of the clips, under the one name x.mp4. The manifests loose.parquet and packed.parquet are beside
    the folder.
    """
    import pandas as pd

    from stgt.data.manifest.write import writing_manifest

    folder = tmp_path / "videos"
    folder.mkdir()
    clips = [
        write_video(folder / name, [frame + 20 * number for frame in grey(12)]) for number, name in enumerate(NAMES)
    ]
    rows = []
    for shard in range(2):
        write_shard(folder / "one.tar", {"x.mp4": clips[2 * shard].read_bytes()})
        write_shard(folder / "two.tar", {"x.mp4": clips[2 * shard + 1].read_bytes()})
        first = (folder / "one.tar").read_bytes()
        offset, size = 512, clips[2 * shard].stat().st_size
        begin = first[: 512 + -(-size // 512) * 512]
        (folder / f"{shard}.tar").write_bytes(begin + (folder / "two.tar").read_bytes())
        for place, clip in ((offset, clips[2 * shard]), (len(begin) + 512, clips[2 * shard + 1])):
            rows.append({"video": "x.mp4", "shard": f"{shard}.tar", "offset": place, "size": clip.stat().st_size})
    for name in ("one.tar", "two.tar"):
        (folder / name).unlink()
    pd.DataFrame(rows).assign(caption="a clip", packed_from=NAMES).to_parquet(tmp_path / "packed.parquet")
    with writing_manifest(tmp_path / "loose.parquet") as manifest:
        for name in NAMES:
            manifest.add(name, ["a clip"])
    return folder


def dataset(videos, root, **options):
    options = dict(frames=4, transform=train_transform(16, flip=False), sampling="headtail", random=True) | options
    return VideoDataset(open_manifest(videos) if str(videos).endswith(".parquet") else videos, root, **options)


def pairs(annotation, root, store, **options):
    return make_items(annotation, root, features=store, tokenizer=Tokenizer.train(["a clip"], 50), **options)


def deadly(left, video):
    """The tower, which kills its process in the call after `left` calls."""
    left[0] -= 1
    if left[0] < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return tower(video)


def broken(root, names=NAMES):
    """Overwrite the clips with bytes that are no video."""
    for name in names:
        (root / name).write_bytes(b"no video")
