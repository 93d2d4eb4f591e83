"""Opens a manifest. Its rows are converted once into an Arrow file, which every process then maps into its memory.

The Arrow file is a hidden file beside the manifest, or in the user's cache folder if that folder cannot be written. Its
name holds a digest of the manifest's size and times of change, and of the rows that are left out. One of the times is
that of its inode, since programs that copy or unpack files set the other one to any value. The time of change of the
Arrow file is that of its last use. When a new Arrow file is made, those of other digests are removed if nobody has
opened them for seven days and no run uses them.
"""

from __future__ import annotations

import glob
import hashlib
import logging
import os
import time
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

from stgt.data.manifest.rows import Kind, Manifest
from stgt.files import atomic_file
from stgt.ownership import PathUse, claimed
from stgt.paths import no_such_file

logger = logging.getLogger(__name__)

FORMAT = 3
"""Version of the Arrow file"""
KEPT = 7 * 24 * 3600
"""Seconds for which an Arrow file is kept after its last use"""


def is_manifest(annotation: str | Path) -> bool:
    """Whether an annotation is a manifest, by its ending."""
    return Path(annotation).suffix.lower() in (".parquet", ".pq")


def open_manifest(path: str | Path, left_out: Collection[str] = frozenset(), *, kind: Kind | None = None) -> Manifest:
    """The rows of a manifest, without those that it marks as bad, and without the videos of the given names.

    kind: whether its captions or its questions are wanted; by default the captions, unless it has only questions.
    The first call converts the manifest. Other processes that open it meanwhile wait for the result.
    Raises ValueError, which names the file, the row and the column, for a malformed manifest, and for one without rows.
    """
    try:
        status = os.stat(path)
    except FileNotFoundError:
        raise ValueError(no_such_file(path)) from None
    kind = kind or _kind_of(path)
    state = _digest(status.st_size, status.st_mtime_ns, status.st_ctime_ns, FORMAT, kind)
    begin = _place(Path(path))
    file = Path(f"{begin}{state}-{_digest(*sorted(left_out))}.arrow")
    if not _is_whole(file):
        with claimed(file, wait=True):
            if not _is_whole(file):
                if file.exists():
                    logger.warning("%s cannot be read, and is made again", file)
                _convert(path, left_out, file, kind)
        for other in glob.glob(f"{glob.escape(begin)}*.arrow"):
            with suppress(OSError):
                if time.time() - os.stat(other).st_mtime > KEPT and PathUse(Path(other)).alone():
                    os.unlink(other)
    return Manifest(str(path), str(file))


def _is_whole(file: Path) -> bool:
    """Whether an Arrow file is there to its end, which a failing disk or a copy may have cut off."""
    import pyarrow as pa

    try:
        with pa.OSFile(str(file)) as source:
            pa.ipc.open_file(source)
    except (pa.ArrowInvalid, OSError):
        return False
    return True


def _kind_of(path: str | Path) -> Kind:
    from stgt.data.manifest.columns import ManifestFile

    return ManifestFile(path).kind


def _place(path: Path) -> str:
    """The beginning of the names of a manifest's Arrow files."""
    folder, path = path.parent, path.absolute()
    if os.access(folder, os.W_OK):
        return os.path.join(folder, f".{path.name}.")
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "stgt" / "manifests"
    return str(home / f"{path.name}.{_digest(str(path))}.")


def _digest(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode("utf-8", "surrogateescape")).hexdigest()[:12]


def _convert(path: str | Path, left_out: Collection[str], file: Path, kind: Kind) -> None:
    import pyarrow as pa

    from stgt.data.manifest.columns import SCHEMAS, ManifestFile

    manifest, count = ManifestFile(path, kind), 0
    logger.info("%s: its %d rows are converted into %s", path, manifest.rows, file)
    schema = SCHEMAS[kind].with_metadata({"rows": str(manifest.rows)})
    with atomic_file(file) as partial:
        with pa.OSFile(str(partial), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
            for batch in manifest.batches(left_out):
                if len(batch):
                    writer.write_batch(batch)
                    count += len(batch)
        if not count:
            raise ValueError(f"{path}: none of its {manifest.rows} rows is left, expected at least one")
    pa.default_memory_pool().release_unused()
