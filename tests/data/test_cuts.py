"""Windows cover a video to its end, and none of them shows only what the one before it shows."""

from fractions import Fraction

import av
import numpy as np
import pytest

from stgt.data import cuts, pyav_reader
from stgt.data.cuts import cut
from stgt.data.pyav_reader import PyAVReader
from stgt.data.shots import boundaries, spans_of, windows_at
from stgt.data.video import open_video, read_frames
from stgt.data.windows import WHOLE, Pixels, windows_of

PIXELS = Pixels(4, 8)


def written(path, times, rate=25):
    """A video whose frames begin at these times, in seconds. The frame at t has a grey of its own.

    rate: frames per second as the file says it, which tells for how long the last frame is shown.
    """
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=rate)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        for number, seconds in enumerate(times):
            picture = np.full((32, 32, 3), 37 * number % 256, np.uint8)
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = round(seconds * 1000), Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return str(path)


@pytest.mark.parametrize(
    ("duration", "expected"),
    [
        (0.5, [(0, 0.5)]),
        (4, [(0, 4)]),
        (4.5, [(0, 4), (2, 4.5)]),
        (8, [(0, 4), (2, 6), (4, 8)]),
        (8.25, [(0, 4), (2, 6), (4, 8), (6, 8.25)]),
    ],
)
def test_windows_cover_a_video_to_its_end(duration, expected):
    windows = cut(duration, 4, 2)
    assert [windows[number] for number in range(windows.count)] == expected


@pytest.mark.parametrize(
    ("length", "stride", "message"),
    [
        (0, 1, "window is 0"),
        (float("inf"), 1, "window is inf"),
        (4, 0, "stride is 0"),
        (4, 5, "stride is 5.* at most the window"),
        (4, float("nan"), "stride is nan"),
    ],
)
def test_windows_that_leave_gaps_are_refused(length, stride, message):
    with pytest.raises(ValueError, match=message):
        cut(10, length, stride)


def test_a_jump_of_the_clock_is_a_part_of_the_window_before_it(tmp_path):
    path = written(tmp_path / "jump.mkv", [*np.arange(0, 4.5, 0.5), *np.arange(95_440, 95_442, 0.5)], rate=2)
    expected = [(0, 4), (2, 6), (4, 95_438), (95_438, 95_442)]
    assert windows_of(path, 4, 2, PIXELS) == expected
    assert windows_of(path, WHOLE, WHOLE, PIXELS) == [(0, 95_442)]


@pytest.mark.parametrize("far", [1e7, 1e9])
def test_the_windows_and_spans_of_a_damaged_file_are_few(tmp_path, far):
    path = written(tmp_path / "far.mkv", [0, 0.04, 0.08, far])
    found = windows_of(path, 8, 4, PIXELS)
    assert found == [(0, far - 4), (far - 4, pytest.approx(far + 0.04, abs=1e-6))]
    assert len(windows_of(path, WHOLE, WHOLE, PIXELS)) == 1
    spans = spans_of(path, PIXELS)
    assert len(spans) == 2 and all(span.end - span.start < 61 for span in spans)
    assert [seconds for span in spans for seconds in boundaries(span, PIXELS.decoding)] == []
    assert windows_at(path, [], 8, 4, PIXELS) == found
    assert windows_at(path, [far - 1], 8, 4, PIXELS) == [(0, far - 1), (far - 1, found[-1].end)]


@pytest.mark.parametrize(("length", "stride"), [(8, 4), (4, 2), (3, 3), (30, 7), (25, 1)])
def test_each_window_of_a_time_lapse_shows_a_frame_that_begins_in_it(tmp_path, length, stride):
    times = [*range(0, 100, 10), 101, 102]
    path = written(tmp_path / "lapse.mkv", times, rate=1)
    found, by_time = windows_of(path, length, stride, PIXELS), cut(103, length, stride)
    begin = [[t for t in times if start <= t < end] for start, end in found]
    assert all(begin) and {t for each in begin for t in each} == set(times)
    assert found[0].start == 0 and found[-1].end == 103
    assert all(after.start <= window.end for window, after in zip(found, found[1:], strict=False))
    every = [by_time[number] for number in range(by_time.count)]
    with_frames = [(start, end) for start, end in every if any(start <= t < end for t in times)]
    assert [start for start, _ in found] == [start for start, _ in with_frames]
    for window, (start, end) in zip(found, with_frames, strict=True):  # joining changes no frame
        joined, alone = (read_frames(path, 4, start=a, end=b) for a, b in (window, (start, end)))
        assert joined.equal(alone)


def test_a_long_film_is_looked_at_in_few_places(tmp_path, monkeypatch):
    monkeypatch.setattr(cuts, "LONG", 25)
    path = written(tmp_path / "long.mkv", [*np.arange(0, 50, 0.5), 1000, *np.arange(2000, 2050, 0.5)])
    with open_video(path, **PIXELS.decoding) as reader:
        looks, between = [], reader.between
        monkeypatch.setattr(reader, "between", lambda *part: looks.append(part) or between(*part))
        windows = cut(reader.duration, 2, 1)
        numbers = cuts.numbers_with_frames(reader, windows)
    wanted = {*range(50), 999, 1000, *range(1999, 2050)} & {*range(windows.count)}
    # Stretches of up to 1 + 201 // 25 windows are taken as they are if they hold as many frames.
    assert wanted <= {*numbers} <= {*range(58), 999, 1000, *range(1991, 2050)}
    assert len(looks) < len(numbers)


def test_each_group_of_pictures_of_a_long_film_is_scanned_once(tmp_path, monkeypatch):
    path = written(tmp_path / "watch.mp4", range(300))
    expected = windows_of(path, 4, 2, PIXELS)
    scans, scan = [], PyAVReader._scan
    monkeypatch.setattr(PyAVReader, "_scan", lambda reader, *place: scans.append(place) or scan(reader, *place))
    for module in (cuts, pyav_reader):
        monkeypatch.setattr(module, "LONG", 20)
    assert windows_of(path, 4, 2, PIXELS) == expected and len(expected) == 149
    assert 0 < len(scans) == len({*scans})
