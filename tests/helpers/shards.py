"""Tar shards with given members."""

import io
import tarfile
from pathlib import Path


def write_shard(place, members):
    """Write a shard, {name: contents}, to a path or a file object."""
    with tarfile.open(mode="w", **{"name" if isinstance(place, Path) else "fileobj": place}) as shard:
        for name, contents in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(contents)
            shard.addfile(info, io.BytesIO(contents))
