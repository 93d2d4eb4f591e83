"""The names of videos that are files, with the interface that `stgt.data.manifest.rows.Manifest` has for its rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch

from stgt.data.images import stills
from stgt.data.names import is_image
from stgt.data.shared_list import SharedList


class VideoNames(SharedList[str]):
    """Names of files below the folder `root`. opened: whether files are opened where an ending may mean both kinds."""

    def __init__(self, names: Sequence[str], root: Path, *, opened: bool) -> None:
        super().__init__(names)
        kinds = stills([root / name for name in names]) if opened else map(is_image, names)
        self.stills = torch.tensor([*kinds], dtype=torch.bool)
        """Whether each file is an image of one frame, bool (files,)"""

    def files(self) -> Sequence[str]:
        """The files that a fingerprint compares."""
        return self

    def still(self, number: int) -> bool:
        """Whether a file is an image of one frame."""
        return bool(self.stills[number])

    def kinds(self) -> set[bool]:
        """The distinct values of `still`."""
        return {*self.stills.tolist()}

    def place(self, number: int) -> str:
        """The text by which a feature cache knows a video."""
        return self[number]

    def places(self) -> Iterator[str]:
        """`place` of each video."""
        return iter(self)

    def described(self, number: int) -> str:
        """A video's name in errors."""
        return self[number]

    def identity(self, number: int) -> str:
        """The name by which a video is compared with others."""
        return self[number]

    @contextmanager
    def opened(self, number: int, root: str | Path) -> Iterator[Path]:
        """The file of a video."""
        yield Path(root) / self[number]
