"""The results of one model, kept in a file, so that they can be compared with those of others later."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

from stgt.files import write_json
from stgt.finsta.evaluation.matching import Matching
from stgt.structure import field, read_json

Figures = dict[str, dict[str, dict[str, float]]]


@dataclass(frozen=True)
class Measured:
    """The results of a host on V clips, and of the Finsta model that post-trained it, if there is one."""

    videos: list[str]
    """V names, in the order of the results"""
    source: str
    """Where the graphs of the clips come from, or several sources, separated by commas"""
    matching: Matching
    understanding: Figures
    """From `stgt.finsta.evaluation.understanding`; empty without a Finsta model"""

    def write(self, path: Path) -> None:
        """Write the results, and the percentages that follow from them, as JSON."""
        write_json(path, {"figures": self.matching.figures(), **asdict(self)})

    @classmethod
    def read(cls, path: Path) -> Measured:
        """The results in a file. Raises ValueError for a file that `write` did not write."""
        values, where = read_json(path, dict), str(path)
        matching = field(values, "matching", dict, where)
        ranks = {name: field(matching, name, list, where) for name in ("text_to_video", "video_to_text")}
        return cls(
            field(values, "videos", list, where),
            field(values, "source", str, where),
            Matching(**ranks, choices=field(matching, "choices", dict, where)),
            field(values, "understanding", dict, where),
        )
