"""The times at which the frames of odd videos are shown, and how long they last."""

from fractions import Fraction

import av
import numpy as np
import pytest
import torch
from helpers.numbered import Kind, numbers, picture, write_numbered
from PIL import Image

from stgt.data.inspection import inspect
from stgt.data.video import MAX_PIXELS, open_video, read_clip, read_frames


def test_a_window_may_begin_at_the_time_of_the_first_frame(tmp_path):
    # The first frame begins at 1/7 s. FFmpeg rounds this up to a microsecond as the time at which the file begins.
    path = tmp_path / "clip.ts"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg2video", rate=25)
        stream.width, stream.height, stream.pix_fmt = 128, 64, "yuv420p"
        for number in range(8):
            frame = av.VideoFrame.from_ndarray(picture(number, (128, 64)), format="rgb24")
            frame.pts = number
            for packet in stream.encode(frame):
                packet.pts, packet.dts = (int(time * 3600 + 48003) for time in (packet.pts, packet.dts))
                packet.time_base = Fraction(1, 90000)
                container.mux(packet)
    begins = read_clip(path, None).times.tolist()
    assert begins[0] == 0
    assert numbers(read_frames(path, None, start=begins[0], end=begins[2])) == [0, 1]


def test_frames_that_an_avi_file_shows_for_longer_keep_their_times(tmp_path):
    path = tmp_path / "screen.avi"
    shown = [*range(10), *range(20, 300, 10)]  # the time of each frame in 25ths of a second
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"bf": "2"})
        stream.width, stream.height, stream.pix_fmt = 128, 64, "yuv420p"
        for number, time in enumerate(shown):
            frame = av.VideoFrame.from_ndarray(picture(number, (128, 64)), format="rgb24")
            frame.pts, frame.time_base = time, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    clip = read_clip(path, None)
    assert numbers(clip.frames) == list(range(len(shown)))
    # The file stores only when a frame is decoded, which is up to two frames before it is shown.
    times = (clip.times * 25).round().tolist()
    assert all(shown[max(n - 2, 0)] <= time <= shown[min(n + 2, len(shown) - 1)] for n, time in enumerate(times))


def write_at(path, codec, times, **options):
    """Numbered frames that are shown at `times`, in milliseconds."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25, options=options)
        stream.width, stream.height, stream.pix_fmt = 128, 64, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        packets = []
        for number, time in enumerate(times):
            frame = av.VideoFrame.from_ndarray(picture(number, (128, 64)), format="rgb24")
            frame.pts, frame.time_base = number if codec == "mpeg4" else time, Fraction(1, 1000)
            packets += stream.encode(frame)
        packets += stream.encode()
        if codec == "mpeg4":  # the encoder refuses frames with one time
            for packet, time in zip(packets, times, strict=True):
                packet.pts = packet.dts = time
        container.mux(packets)
    return path


def test_frames_that_share_a_time_leave_the_times_of_the_others_alone(tmp_path):
    """The clock of Matroska has milliseconds, and programs that record a screen store some frames at the same one."""
    times = [*range(0, 3000, 100), *range(3000, 3600, 20)]
    times[40] = times[39]
    clip = read_clip(write_at(tmp_path / "screen.mkv", "mpeg4", times), None)
    assert numbers(clip.frames) == list(range(60))
    times[40] = (times[39] + times[41]) / 2
    torch.testing.assert_close(clip.times, torch.tensor(times, dtype=torch.float64) / 1000, rtol=0, atol=1e-6)


def test_times_of_a_container_that_stores_only_when_frames_are_decoded(tmp_path):
    times = [40 * number + 7 * (number % 3) for number in range(60)]
    clip = read_clip(write_at(tmp_path / "uneven.asf", "libx264", times, bf="2", b_adapt="0"), None)
    assert numbers(clip.frames) == list(range(60))
    torch.testing.assert_close(clip.times, torch.tensor(times, dtype=torch.float64) / 1000, rtol=0, atol=0.1)


@pytest.mark.parametrize("long", [False, True])
@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".mov"])
def test_a_pause_before_the_last_frame_does_not_follow_it_again(suffix, long, tmp_path, monkeypatch):
    monkeypatch.setattr("stgt.data.pyav_reader.LONG", 10 if long else 4096)
    path = write_at(tmp_path / f"screen{suffix}", "libx264", [*range(0, 1160, 40), 11_160], bf="2")
    with open_video(path, "auto", max_pixels=MAX_PIXELS, deadline=None) as reader:
        assert reader.duration == pytest.approx(11.2, abs=0.002)


@pytest.mark.parametrize("long", [False, True])
@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".mov"])
@pytest.mark.parametrize("after", [1, 2, 3, 4, 5])
def test_a_pause_between_reordered_frames_is_not_that_of_the_last_frame(after, suffix, long, tmp_path, monkeypatch):
    """MP4 tells how much later the next packet is decoded. Four frames before the end, this is the pause."""
    monkeypatch.setattr("stgt.data.pyav_reader.LONG", 10 if long else 4096)
    times = [40 * number + 10_000 * (number >= 30 - after) for number in range(30)]
    path = write_at(tmp_path / f"screen{suffix}", "libx264", times, bf="2", b_adapt="0")
    with open_video(path, "auto", max_pixels=MAX_PIXELS, deadline=None) as reader:
        assert reader.duration == pytest.approx(11.2, abs=0.002)


def test_a_pause_before_the_last_of_counted_frames_does_not_follow_it_again(tmp_path):
    times = [*range(0, 1160, 40), 11_160]
    times[10] = times[9]  # because of this, the frames are counted by decoding them
    path = write_at(tmp_path / "screen.mkv", "mpeg4", times)
    with open_video(path, "auto", max_pixels=MAX_PIXELS, deadline=None) as reader:
        assert reader.duration == pytest.approx(11.2, abs=0.002)


@pytest.mark.parametrize(("first_lasts", "last_lasts", "duration"), [(10, 3000, 3.9), (100, 10, 1.0), (10, 10, 1.0)])
def test_the_last_of_counted_frames_of_a_gif_is_shown_for_its_own_time(first_lasts, last_lasts, duration, tmp_path):
    first, *others = [Image.fromarray(picture(number, (128, 64))) for number in range(10)]
    path = tmp_path / "clip.gif"
    first.save(path, save_all=True, append_images=others, duration=[first_lasts, *[100] * 8, last_lasts])
    with open_video(path, "auto", max_pixels=MAX_PIXELS, deadline=None) as reader:
        assert reader.duration == pytest.approx(duration)


def test_the_last_frame_of_a_gif_is_shown_for_its_own_time(tmp_path):
    first, *others = [Image.fromarray(picture(number, (128, 64))) for number in range(10)]
    path = tmp_path / "clip.gif"
    first.save(path, save_all=True, append_images=others, duration=[100] * 9 + [3000])
    with open_video(path, "auto", max_pixels=MAX_PIXELS, deadline=None) as reader:
        assert reader.duration == pytest.approx(3.9)
    assert numbers(read_frames(path, 2, start=2.5, end=3.5)) == [9, 9]


def test_an_animation_lasts_as_long_as_in_browsers_whatever_its_format(tmp_path):
    durations = [10, 10, 20, 30, 10, 100, 50, 10]  # milliseconds
    first, *others = [Image.fromarray(picture(number, (128, 64))) for number in range(8)]
    begins = torch.tensor([0, 100, 200, 220, 250, 350, 450, 500], dtype=torch.float64) / 1000
    for name in ("clip.gif", "clip.webp", "clip.png"):
        first.save(tmp_path / name, save_all=True, append_images=others, duration=durations, lossless=True)
        clip = read_clip(tmp_path / name, None)
        assert numbers(clip.frames) == list(range(8))
        torch.testing.assert_close(clip.times, begins, rtol=0, atol=1e-9)
        sampled = read_clip(tmp_path / name, 3)
        assert numbers(sampled.frames) == [0, 2, 5]
        torch.testing.assert_close(sampled.times, begins[[0, 2, 5]], rtol=0, atol=1e-9)
        assert numbers(read_frames(tmp_path / name, None, start=0.2, end=0.3)) == [2, 3, 4]


def test_times_begin_with_the_first_frame_where_the_file_does_not_tell_its_start(tmp_path):
    """FFmpeg finds no start of an MPEG program stream with one frame, whose time in the file is half a second."""
    path = write_numbered(tmp_path / "one.mpg", Kind(".mpg", "mpeg2video"), 1)
    clip = read_clip(path, None)
    assert clip.times.tolist() == [0.0]
    assert len(read_frames(path, None, start=0.0, end=0.01)) == 1


def test_no_frame_of_a_file_that_says_it_begins_with_its_sound_is_before_it(tmp_path):
    """FFmpeg does not know when B-frames in ASF are shown, so it takes the start of the sound for that of the file."""
    path = tmp_path / "late.asf"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"bf": "2"})
        stream.width, stream.height, stream.pix_fmt = 128, 64, "yuv420p"
        sound = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        packets = []
        for number in range(50):
            frame = av.VideoFrame.from_ndarray(picture(number, (128, 64)), format="rgb24")
            frame.pts = number
            packets += stream.encode(frame)
        packets += stream.encode()
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.int16), format="s16", layout="mono")
        silence.sample_rate, silence.pts = 8000, 8000  # from 1 s to 2 s
        container.mux(packets[:25])
        container.mux([*sound.encode(silence), *sound.encode()])
        container.mux(packets[25:])
    assert read_clip(path, None).times.tolist() == pytest.approx([number / 25 for number in range(50)], abs=0.002)
    assert numbers(read_frames(path, None, start=1.899, end=2.0)) == [48, 49]


@pytest.mark.parametrize(
    ("kind", "rate"),
    [
        (Kind(".h264", "libx264", codec_options={"bf": "2"}, rate=30), 30),
        (Kind(".h264", "libx264", rate=12), 12),
        (Kind(".hevc", "libx265", codec_options={"x265-params": "log-level=error"}, rate=30), 30),
        (Kind(".dv", "dvvideo", size=(720, 576)), 25),
    ],
    ids=str,
)
def test_a_stream_without_a_container_has_the_rate_of_its_header(kind, rate, tmp_path):
    """FFmpeg assumes 25 frames per second for a bare stream, and 60000 for DV."""
    path = write_numbered(tmp_path / f"bare{kind.suffix}", kind, 10)
    assert read_clip(path, None).times.tolist() == pytest.approx([number / rate for number in range(10)], abs=1e-6)
    assert inspect(path, "pyav", max_pixels=MAX_PIXELS).facts["rate"] == rate
