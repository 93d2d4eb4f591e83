"""The shots of real clips and of films that are joined from them are found, by their cuts and dissolves."""

from fractions import Fraction

import av
import numpy as np
import pytest

from stgt.data import shots
from stgt.data.errors import VideoError
from stgt.data.shots import Span, boundaries, spans_of, windows_at
from stgt.data.video import read_frames
from stgt.data.windows import DECODING, Pixels

PIXELS = Pixels(4, 8)
BIKES = [30, 137, 187, 242]
"""The first frames of the shots of bikes.mp4 after the first shot, as one sees them; it has 25 frames per second"""


@pytest.fixture(scope="module")
def frames(real_clips):
    """The frames of three clips without cuts, as float (n, 90, 160, 3)."""
    found = {}
    for path in real_clips:
        pictures = [frame.reformat(160, 90, "rgb24").to_ndarray() for frame in av.open(str(path)).decode(video=0)]
        found[path.stem] = np.stack(pictures).astype(np.float32)
    return {"bunny": found["bigbuckbunny"], "bikes": found["bikes"][30:137], "phone": found["carphone_pristine"]}


def written(path, pictures, rate=25):
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=rate)
        stream.width, stream.height, stream.pix_fmt = 160, 90, "yuv420p"
        for picture in pictures:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture.round().astype(np.uint8), format="rgb24")))
        container.mux(stream.encode(None))
    return str(path)


def dissolved(before, after, count):
    """Two clips of which the last frames of one are blended with the first of the other, count of them."""
    weight = np.linspace(0, 1, count + 2)[1:-1, None, None, None]
    middle = before[len(before) - count :] * (1 - weight) + after[:count] * weight
    return np.concatenate([before[: len(before) - count], middle, after[count:]])


def found_in(path):
    """The numbers of the first frames of all shots, at 25 frames per second."""
    return [round(25 * seconds) for span in spans_of(path, PIXELS) for seconds in boundaries(span, DECODING)]


def test_the_cuts_of_a_real_clip_are_found(real_clips):
    [path] = [str(path) for path in real_clips if path.stem == "bikes"]
    assert found_in(path) == BIKES
    frames = read_frames(path, None).float()
    for number in BIKES:  # a cut changes the picture far more than the frames around it do
        change = [(frames[i] - frames[i - 1]).abs().mean() for i in (number - 1, number, number + 1)]
        assert change[1] > 3 * max(change[0], change[2])


@pytest.mark.parametrize("name", ["bigbuckbunny", "carphone_pristine", "carphone_distorted"])
def test_a_clip_of_one_shot_has_no_boundary(real_clips, name):
    [path] = [str(path) for path in real_clips if path.stem == name]
    assert found_in(path) == []


@pytest.mark.parametrize("span", [60.0, 3.0, 4.28])
def test_the_joints_of_a_film_are_found_wherever_its_parts_end(frames, span, tmp_path, monkeypatch):
    monkeypatch.setattr(shots, "SPAN", span)
    film = np.concatenate([frames["bikes"], frames["bunny"], frames["phone"], frames["bikes"][:20], frames["bunny"]])
    path = written(tmp_path / "film.mp4", film)
    assert found_in(path) == [107, 107 + 132, 107 + 132 + 120, 107 + 132 + 120 + 20]


@pytest.mark.parametrize(("before", "after"), [("bunny", "phone"), ("phone", "bikes"), ("bikes", "bunny")])
def test_dissolves_of_half_a_second_are_found_once(frames, before, after, tmp_path):
    path = written(tmp_path / "film.mp4", dissolved(frames[before], frames[after], 12))
    [place] = found_in(path)
    assert len(frames[before]) - 12 <= place <= len(frames[before])


def test_a_slow_change_and_a_flash_are_no_boundaries(frames, tmp_path):
    film = dissolved(frames["bikes"], frames["bunny"], 75)
    film[20] = 255
    assert found_in(written(tmp_path / "film.mp4", film)) == []


def test_stills_and_single_frames_have_no_boundary(tmp_path):
    grey = np.full((50, 90, 160, 3), 100.0)
    grey += np.random.default_rng(0).normal(0, 3, grey.shape)  # noise
    assert found_in(written(tmp_path / "grey.mp4", grey)) == []
    assert found_in(written(tmp_path / "one.mp4", grey[:1])) == []


def test_only_parts_in_which_frames_begin_are_looked_through(tmp_path, monkeypatch):
    monkeypatch.setattr(shots, "SPAN", 5.0)
    slides = written(tmp_path / "slides.mp4", np.full((4, 90, 160, 3), 100.0), rate=Fraction(1, 20))
    assert spans_of(slides, PIXELS) == [(slides, start, start + 5) for start in (0, 20, 40, 60)]
    assert found_in(slides) == [] and boundaries(Span(slides, 10, 15), DECODING) == []


def test_shots_are_windows_and_long_ones_are_cut(tmp_path):
    grey = np.full((300, 90, 160, 3), 100.0)
    long, short = written(tmp_path / "long.mp4", grey), written(tmp_path / "short.mp4", grey[:50])
    for path, starts, length, stride, expected in (
        (long, [3.0, 9.5], 4.0, 2.0, [(0, 3), (3, 7), (5, 9), (7, 9.5), (9.5, 12)]),
        (long, [], 8.0, 8.0, [(0, 8), (8, 12)]),
        (short, [0.2, 1.0, 1.3, 1.6], 4.0, 4.0, [(0, 1.0), (1.0, 2.0)]),
    ):
        found = windows_at(path, starts, length, stride, PIXELS)
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-9)  # seconds are rounded to 52 bits


def test_a_file_that_is_no_video_is_refused(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"no video")
    with pytest.raises(VideoError, match="a.mp4: not a video file"):
        boundaries(Span(str(tmp_path / "a.mp4"), 0, 5), DECODING)
