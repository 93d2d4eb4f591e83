"""The manifest of an index: its settings, the files in it with their windows, and the files that cannot be read."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path

from stgt.files import write_json
from stgt.integrity import DamagedError

FILE = "index.json"
VERSION = 2


@dataclass(frozen=True)
class Settings:
    """Everything that the vectors of an index depend on, beside the files."""

    model: str
    """The model's name, by which later commands load it"""
    digest: str
    """The name of the model's weights and settings"""
    window: float
    """Seconds of a window"""
    stride: float
    """Seconds between the beginnings of windows"""
    shots: bool = False
    """Whether a window ends where its shot ends"""


@dataclass(frozen=True)
class Film:
    """A video file of an index. Its windows are rows `first` to `first + windows` of a file of vectors."""

    path: str
    """Absolute path"""
    key: str
    """A digest of path, size, time of change, decoder and settings, by which a changed file is noticed"""
    first: int
    windows: int
    sha256: str
    """SHA-256 of its vectors and times"""


@dataclass(frozen=True)
class Segment:
    """A file of vectors. Rows that belong to none of its films are those of films that are gone."""

    vectors: str
    """Its name beside the manifest"""
    windows: int
    """The number of its rows"""
    films: list[Film]
    """In the order of their rows"""
    groups: str = ""
    """Name of the file of faiss beside the manifest, for an index that is too large to be searched exactly"""

    @property
    def live(self) -> int:
        """The number of rows that belong to films."""
        return sum(film.windows for film in self.films)


@dataclass(frozen=True)
class Manifest:
    """The contents of `index.json`."""

    settings: Settings
    folders: list[str]
    """Absolute paths of the folders that were indexed"""
    segments: list[Segment]
    broken: dict[str, str] = field(default_factory=dict)
    """{absolute path of a file that could not be read: the cause}"""

    @property
    def films(self) -> list[Film]:
        """All files, in alphabetical order."""
        return sorted((film for segment in self.segments for film in segment.films), key=lambda film: film.path)

    @cached_property
    def by_key(self) -> dict[str, Film]:
        """Each file by its key."""
        return {film.key: film for segment in self.segments for film in segment.films}

    @cached_property
    def by_path(self) -> dict[str, Film]:
        """Each file by its absolute path."""
        return {film.path: film for film in self.by_key.values()}

    @property
    def windows(self) -> int:
        """The number of windows of all files."""
        return sum(segment.live for segment in self.segments)

    def save(self, folder: Path) -> None:
        """Write the manifest, which makes the index what it says, at once."""
        body = asdict(self)
        write_json(folder / FILE, {"version": VERSION, "sha256": _digest(body), "index": body})

    @classmethod
    def load(cls, folder: Path) -> Manifest:
        """Read the manifest of an index.

        Raises ValueError if the folder is no index, or one of a later version, and DamagedError for a damaged one.
        """
        path = folder / FILE
        if not path.is_file():
            if folder.is_dir():  # a folder of videos or of a model, into which no index should be written
                raise ValueError(
                    f"{folder} holds no index, expected a folder that `stgt index VIDEOS --out films.index --model "
                    "MODEL` has made"
                )
            raise ValueError(f"{folder} holds no index; `stgt index FOLDER --out {folder} --model MODEL` makes one")
        try:  # names of files may hold bytes that are not UTF-8, which `stgt.structure` refuses
            values = json.loads(path.read_bytes())
            version, sha256, body = values["version"], values["sha256"], values["index"]
        except (ValueError, KeyError, TypeError, RecursionError):
            raise DamagedError(f"{path}: the file is damaged; remove {folder} and index again") from None
        if version != VERSION:
            raise ValueError(f"{path}: its version is {version!r}, expected {VERSION}; remove {folder} and index again")
        if sha256 != _digest(body):
            raise DamagedError(f"{path}: the file was changed or damaged; remove {folder} and index again")
        segments = [
            Segment(**segment | {"films": [Film(**film) for film in segment["films"]]}) for segment in body["segments"]
        ]
        return cls(**body | {"settings": Settings(**body["settings"]), "segments": segments})


def _digest(body: dict) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
