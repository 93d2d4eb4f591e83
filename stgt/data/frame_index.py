"""The table of a video's frames, made from the times of its packets without decoding any of them.

Frame i of a video is the i-th frame that a player shows. The sorted presentation times of the packets tell which packet
that is, and the keyframes tell where decoding has to begin. There is no table for a container that stores no
presentation times, or stores times that contradict each other: its frames have to be decoded in order and counted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from av.index import IndexEntries

# These containers store a presentation time for each frame. In all others, FFmpeg derives the times from the order of
# decoding, which is right only for streams whose frames are shown in that order.
_STORES_TIMES = {"mov", "matroska", "mpegts", "mpeg", "flv", "asf", "nut", "ivf", "gif", "mxf"}

# Scanning all packets of a file with more packets takes longer than decoding a few of its frames. If its container has
# a table of all packets, only the packets near the wanted frames are scanned.
LONG = 4096

# At most this many frames are decoded between the decoding of a frame and its display.
REORDERED = 16

_KEYFRAME, _HIDDEN = 1, 2  # the flags of an entry of FFmpeg's own table


def stores_times(container: str) -> bool:
    """Whether a container, by FFmpeg's name of its format, stores a presentation time for each frame."""
    return not _STORES_TIMES.isdisjoint(container.split(","))


def counts_decoding(container: str) -> bool:
    """Whether a container, by FFmpeg's name of its format, tells when the next packet is decoded, and not for how long
    a frame is shown.
    """
    return "mov" in container.split(",")


class UnusableTimesError(Exception):
    """The times of the packets do not tell which frames a player shows. The message is the reason."""


class PacketTimes(NamedTuple):
    """The facts about one packet that are known without decoding it. Times are in units of the stream's time base."""

    pts: int | None
    dts: int | None
    keyframe: bool
    hidden: bool
    lasting: int
    """For how long its frame is shown; 0 if the container does not tell"""


class Keyframe(NamedTuple):
    """A packet at which decoding can begin."""

    pts: int
    dts: int | None


@dataclass
class FrameIndex:
    """The table of the frames that a video shows, and of the keyframes at which their decoding begins.

    `length` is the number of all frames. `ranks` and `pts` (both ascending int64) are the numbers and presentation
    times of the frames that are known, which are all frames after a whole scan. `lasting` is the time for which the
    last of them is shown, or 0. `keyframes` are the keyframes among the scanned packets, ascending in time.
    """

    length: int
    ranks: np.ndarray
    pts: np.ndarray
    lasting: int
    keyframes: list[Keyframe]
    _key_pts: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        self._key_pts = np.array([key.pts for key in self.keyframes], np.int64)

    def around(self, ranks: np.ndarray) -> FrameIndex:
        """A table that knows these frames. This table knows all frames."""
        return self

    def pts_of(self, ranks: np.ndarray) -> np.ndarray:
        """Presentation times of frames by number. The frames have to be known."""
        return self.pts[np.searchsorted(self.ranks, ranks)]

    def rank_of(self, pts: int | None) -> int | None:
        """The number of the frame with this presentation time, or None if no known frame has it."""
        if pts is None:
            return None
        place = int(np.searchsorted(self.pts, pts))
        return int(self.ranks[place]) if place < len(self.pts) and self.pts[place] == pts else None

    def first_rank_from(self, pts: int) -> int:
        """The number of the first known frame that is shown at or after a presentation time."""
        place = int(np.searchsorted(self.pts, pts))
        return int(self.ranks[place]) if place < len(self.ranks) else self.length

    def keyframe_before(self, pts: int) -> int:
        """The place in `keyframes` of the last one that is shown at or before a presentation time, or -1."""
        return int(np.searchsorted(self._key_pts, pts, side="right")) - 1


def index_of(packets: Iterable[PacketTimes], container: str) -> FrameIndex:
    """The table of a whole video, from all of its packets in the order of decoding.

    container: FFmpeg's name of the format. Raises UnusableTimesError if the times are not reliable.
    """
    packets = list(packets)
    _require_usable(packets, stores_times(container))
    shown = np.sort(np.array([packet.pts for packet in packets if not packet.hidden], np.int64))
    lasting = _lasting(packets, counts_decoding(container))
    return FrameIndex(len(shown), np.arange(len(shown)), shown, lasting, _keyframes(packets))


def _require_usable(packets: list[PacketTimes], stored: bool) -> None:
    """Raise UnusableTimesError unless sorting the packets by presentation time gives the order of display."""
    shown = [packet.pts for packet in packets if not packet.hidden]
    if None in shown:
        raise UnusableTimesError("packets have no presentation time")
    if len(set(shown)) < len(shown):
        raise UnusableTimesError("packets have the same presentation time")
    decoded = [packet.dts for packet in packets if packet.dts is not None]
    if any(later <= earlier for earlier, later in zip(decoded, decoded[1:], strict=False)):
        raise UnusableTimesError("decoding times do not increase")
    if not stored and any(packet.pts != packet.dts for packet in packets):
        raise UnusableTimesError("the container stores no presentation times")
    if packets and not packets[0].keyframe:
        raise UnusableTimesError("the first packet is no keyframe")
    if shown and packets[0].pts is not None and min(shown) < packets[0].pts:
        raise UnusableTimesError("frames are shown before the first keyframe, which they may need to be decoded")
    keys = [packet.pts for packet in packets if packet.keyframe]
    if None in keys or any(later <= earlier for earlier, later in zip(keys, keys[1:], strict=False)):
        raise UnusableTimesError("the presentation times of keyframes do not increase")


def _keyframes(packets: Iterable[PacketTimes]) -> list[Keyframe]:
    return [Keyframe(packet.pts, packet.dts) for packet in packets if packet.keyframe]


def _lasting(packets: list[PacketTimes], decoding: bool) -> int:
    """The time for which the last frame of some packets is shown, or 0. decoding: see `counts_decoding`.

    If such a container stores the last frame before others, the time until the next packet is decoded may be that of a
    pause between other frames. Then the frame does not last longer than the one before it.
    """
    shown = sorted((packet for packet in packets if not packet.hidden), key=lambda packet: packet.pts)
    if not shown:
        return 0
    last = shown[-1]
    if decoding and last is not packets[-1] and len(shown) > 1:
        return min(last.lasting, last.pts - shown[-2].pts)
    return last.lasting


class PacketTable:
    """FFmpeg's own table of all packets of a long file, in the order of decoding, with decoding times only.

    A group of pictures is a keyframe with the packets up to the next keyframe. All frames of a group are shown after
    all frames of the group before it. So the table tells the numbers of a group's frames, and scanning that group alone
    tells their presentation times.
    """

    def __init__(
        self,
        entries: Callable[[], IndexEntries],
        scan: Callable[[int, int, int], list[PacketTimes]],
        one_part: bool,
    ) -> None:
        """entries(): `index_entries` of the open stream. scan(near, dts, count): see `PyAVReader._scan`.

        one_part: whether the file plays one part of its packets, so that only packets at its two ends can be hidden.
        Raises UnusableTimesError if the decoding times of keyframes decrease, or if the first packet is no keyframe.
        """
        self._entries, self._scan = entries, scan
        self._scanned: dict[int, FrameIndex] = {}
        table = entries()
        self._packets = len(table)
        if not table[0].is_keyframe:
            raise UnusableTimesError("the first packet is no keyframe")
        keys = _keys_if_none_is_hidden(table) if one_part else None
        if keys is None:
            flags = np.fromiter((entry.flags for entry in table), np.int64, len(table))
            self._keys, self._shown = np.flatnonzero(flags & _KEYFRAME), np.flatnonzero(~flags & _HIDDEN)
        else:
            self._keys, self._shown = np.array(keys), np.arange(len(table))
        self.length = len(self._shown)
        self._key_dts = np.array([table[key].timestamp for key in self._keys.tolist()], np.int64)
        if (np.diff(self._key_dts) < 0).any():
            raise UnusableTimesError("decoding times decrease")

    def around(self, ranks: np.ndarray) -> FrameIndex:
        """A table of the groups that hold the given frames, and of the group before each of these groups."""
        groups = np.searchsorted(self._keys, self._shown[ranks], side="right") - 1
        return self._index(np.unique(np.concatenate([groups, np.maximum(groups - 1, 0)])))

    def first_rank_from(self, pts: int) -> int:
        """The number of the first frame that is shown at or after a presentation time."""
        group = max(int(np.searchsorted(self._key_dts, pts, side="right")) - 1, 0)
        near = np.arange(max(group - 1, 0), min(group + 2, len(self._keys)))
        index = self._index(near)
        return index.first_rank_from(pts) if index.pts[-1] >= pts else int(index.ranks[-1]) + 1

    def _index(self, groups: np.ndarray) -> FrameIndex:
        found = [self._group(group) for group in groups.tolist()]
        times = np.concatenate([index.pts for index in found])
        if (np.diff(times) <= 0).any():
            raise UnusableTimesError("groups of pictures overlap in time")
        ranks = np.concatenate([index.ranks for index in found])
        return FrameIndex(
            self.length, ranks, times, found[-1].lasting, [key for index in found for key in index.keyframes]
        )

    def _group(self, group: int) -> FrameIndex:
        """A table of the frames of one group, which is scanned when it is first needed."""
        if group not in self._scanned:
            self._scanned[group] = self._scan_group(group)
        return self._scanned[group]

    def _scan_group(self, group: int) -> FrameIndex:
        table = self._entries()  # it is asked for again, since opening the file again makes a new table
        first = int(self._keys[group])
        last = int(self._keys[group + 1]) if group + 1 < len(self._keys) else self._packets
        # A seek to the keyframe's own decoding time would arrive at the group before, because seeking goes by
        # presentation times and the keyframe is presented later.
        near = table[min(first + REORDERED, last - 1)].timestamp
        packets = self._scan(near, int(self._key_dts[group]), last - first)
        if len(packets) != last - first or any(packet.keyframe for packet in packets[1:]):
            raise UnusableTimesError("the container's table of packets does not fit its packets")
        _require_usable_group(packets)
        start, stop = np.searchsorted(self._shown, [first, last]).tolist()
        shown = sorted(packet.pts for packet in packets if not packet.hidden)
        if len(shown) != stop - start:
            raise UnusableTimesError("the container's table hides other packets than its edit list does")
        return FrameIndex(
            self.length,
            np.arange(start, stop),
            np.array(shown, np.int64),
            _lasting(packets, decoding=True),
            _keyframes(packets[:1]),
        )


def _keys_if_none_is_hidden(table: IndexEntries) -> list[int] | None:
    """The places of the keyframes, or None if the first or the last group has a hidden packet.

    FFmpeg searches for them, because a look at every packet takes most of the time that reading a long film costs. Its
    search passes over hidden keyframes. If the last one is hidden, then its packets count to the group before it.
    """
    keys = [0]
    while (key := table.search_timestamp(table[keys[-1]].timestamp + 1, any_frame=False, backward=False)) > keys[-1]:
        keys.append(key)
    first, last = range(keys[1] if len(keys) > 1 else len(table)), range(keys[-1], len(table))
    return None if any(table[place].is_discard for part in (first, last) for place in part) else keys


def _require_usable_group(packets: list[PacketTimes]) -> None:
    shown = [packet.pts for packet in packets if not packet.hidden]
    if None in shown or packets[0].pts is None or len(set(shown)) < len(shown):
        raise UnusableTimesError("packets have no presentation time, or share one")
