"""Videos from phones, recorders, browsers and attackers."""

import os
import shutil

import av
import numpy as np
import pytest
import torch
from helpers.clips import noise, write_video
from helpers.numbered import Kind, number_in, numbers, write_numbered

from stgt.data import video_file
from stgt.data.pyav_reader import FramesDisagreeError
from stgt.data.video import MAX_PIXELS, VideoError, open_video, read_clip, read_frames, sample_indices

X264 = Kind(".mp4", "libx264", codec_options={"bf": "2"})
STREAM = Kind(".ts", "mpeg2video", codec_options={"bf": "2"})


def test_a_long_film_is_read_by_its_table_and_not_scanned(tmp_path, monkeypatch):
    count, kind = 5000, Kind(".mp4", "mpeg4", codec_options={"bf": "2"}, gop=24, size=(130, 16))
    path = write_numbered(tmp_path / "film.mp4", kind, count, bits=13)
    seen = []
    packets = video_file.VideoFile.packets
    monkeypatch.setattr(video_file.VideoFile, "packets", lambda self: (seen.append(p.size) or p for p in packets(self)))
    for frames in (1, 8):
        seen.clear()
        wanted = sample_indices(count, frames).tolist()
        assert numbers(read_frames(path, frames), 13) == wanted
        assert len(seen) < 24 * 8 * frames
    for first in (0, 1, 23, 24, 25, 4703, 4997):
        window = read_clip(path, 3, start=first / 25, end=(first + 3) / 25)
        assert numbers(window.frames, 13) == [first, first + 1, first + 2]
        assert window.times.tolist() == pytest.approx([first / 25, (first + 1) / 25, (first + 2) / 25])
    whole = read_frames(path, None)
    assert numbers(whole, 13) == list(range(count))


@pytest.mark.parametrize(
    ("matrix", "shown"),
    [
        ((1, 0, 0, 1), lambda x: x),
        ((0, 1, -1, 0), lambda x: np.rot90(x, -1)),  # 90 degrees clockwise, which phones write
        ((-1, 0, 0, -1), lambda x: np.rot90(x, 2)),
        ((0, -1, 1, 0), lambda x: np.rot90(x)),
        ((-1, 0, 0, 1), lambda x: x[:, ::-1]),
        ((1, 0, 0, -1), lambda x: x[::-1]),
    ],
)
def test_a_clip_is_shown_upright(matrix, shown, tmp_path):
    stored = np.zeros((16, 32, 3), np.uint8)
    stored[:8, :16, 0], stored[8:, 16:, 2], stored[:8, 16:] = 255, 255, 128
    path = tmp_path / "phone.mov"
    a, b, c, d = matrix
    with av.open(str(path), "w") as container:
        stream = container.add_stream("png", rate=8)
        stream.width, stream.height, stream.pix_fmt = 32, 16, "rgb24"
        stream.set_display_matrix([value << 16 for value in (a, b, 0, c, d, 0, 0, 0)] + [1 << 30])
        for _ in range(4):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(stored, format="rgb24")))
        container.mux(stream.encode())
    video = read_frames(path, 2).numpy()
    assert np.array_equal(video[0], shown(stored)) and np.array_equal(video[1], shown(stored))


def test_a_size_that_changes_midway_becomes_the_first_one(tmp_path):
    kind = Kind(".ts", "libx264", codec_options={"bf": "2"})
    small = write_numbered(tmp_path / "small.ts", kind, 24)
    large = write_numbered(tmp_path / "large.ts", kind._replace(size=(256, 128)), 24)
    for order in ((small, large), (large, small)):
        path = tmp_path / "joined.ts"
        path.write_bytes(b"".join(part.read_bytes() for part in order))
        size = (64, 128) if order[0] is small else (128, 256)
        whole = read_frames(path, None)
        assert whole.shape[1:3] == size and numbers(whole) == [*range(24), *range(24)]
        last = read_frames(path, 2, start=1.5)
        assert last.shape[1:3] == size and torch.equal(last[0], whole[38])


def test_a_recording_that_begins_in_the_middle_shows_what_can_be_decoded(tmp_path):
    whole = write_numbered(tmp_path / "whole.ts", Kind(".ts", "libx264", codec_options={"bf": "2"}), 60).read_bytes()
    path = tmp_path / "middle.ts"
    path.write_bytes(whole[188 * 20 :])
    with av.open(str(tmp_path / "whole.ts")) as container:
        keys = [number for number, packet in enumerate(container.demux(video=0)) if packet.size and packet.is_keyframe]
    shown = numbers(read_frames(path, None))
    assert shown[-1] == 59 and shown == list(range(shown[0], 60)) and shown[0] <= keys[2]
    assert numbers(read_frames(path, 5)) == [shown[i] for i in sample_indices(len(shown), 5)]


def test_a_cut_whose_first_packets_give_no_frames(tmp_path):
    refresh = {"x264-params": "intra-refresh=1:keyint=20:bframes=0"}
    whole = write_numbered(tmp_path / "whole.mkv", Kind(".mkv", "libx264", codec_options=refresh), 100)
    path = tmp_path / "cut.mkv"
    with av.open(str(whole)) as source, av.open(str(path), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        packets = [packet for packet in source.demux(video=0) if packet.size]
        first = [number for number, packet in enumerate(packets) if packet.is_keyframe][1]
        for packet in packets[first:]:
            packet.stream = stream
            target.mux(packet)
    shown = numbers(read_frames(path, None))
    assert shown == list(range(shown[0], 100)) and shown[0] > first
    for middle in range(len(shown) // 4, len(shown)):
        with open_video(path, "auto", max_pixels=MAX_PIXELS, deadline=None) as reader:
            with pytest.raises(FramesDisagreeError):
                reader.read(np.array([middle]))
            reader.count_by_decoding()
            assert reader.length == len(shown)
            assert [number_in(frame) for frame in reader.read(np.array([middle]))[0]] == [shown[middle]]


def test_times_begin_with_the_file_and_windows_are_in_seconds(tmp_path):
    path = write_numbered(tmp_path / "clip.ts", STREAM, 50)
    clip = read_clip(path, 4)
    assert clip.times.dtype == torch.float64
    assert clip.times.tolist() == pytest.approx([i / 25 for i in sample_indices(50, 4)])
    assert numbers(read_frames(path, None, start=0.4, end=0.6)) == [10, 11, 12, 13, 14]
    assert numbers(read_frames(path, None, start=1.9)) == [48, 49]
    assert numbers(read_frames(path, None, start=1.9, end=1e300)) == [48, 49]
    assert numbers(read_frames(path, None, end=0.1)) == [0, 1, 2]
    assert numbers(read_frames(path, 8, start=0.401, end=0.402)) == [10] * 8  # the frame that is shown then
    assert numbers(read_frames(path, 2, "headtail", start=1.0)) == [31, 43]


@pytest.mark.parametrize(
    ("window", "message"),
    [
        ({"start": -1.0}, "start is -1.0, expected"),
        ({"start": float("nan")}, "start is nan"),
        ({"start": float("inf")}, "start is inf, expected a number of seconds"),
        ({"start": 2.0}, "start is 2.0, expected less than the 2 s of "),
        ({"start": 1.0, "end": 1.0}, "end is 1.0, expected a number of seconds after start=1.0"),
        ({"end": 0.0}, "end is 0.0"),
        ({"deadline": 0}, "deadline is 0"),
        ({"max_pixels": 0}, "max_pixels is 0"),
        ({"decoder": "vlc"}, "decoder is 'vlc', expected one of 'auto', 'pyav', 'decord'"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(window, message, tmp_path):
    path = write_numbered(tmp_path / "clip.mp4", X264, 50)
    with pytest.raises(ValueError, match=message):
        read_frames(path, 4, **window)


def test_a_file_that_takes_too_long_is_given_up(tmp_path):
    path = write_numbered(tmp_path / "clip.mp4", X264, 50)
    with pytest.raises(VideoError, match=r"clip.mp4: decoding did not end within 1e-09 s, the deadline for one file"):
        read_frames(path, 8, deadline=1e-9)
    assert len(read_frames(path, 8, deadline=None)) == 8


def test_frames_that_are_too_large_are_refused_before_they_are_decoded(tmp_path, monkeypatch):
    path = write_numbered(tmp_path / "clip.mp4", X264, 8)
    monkeypatch.setattr(video_file.VideoFile, "frames", None)
    with pytest.raises(
        VideoError, match=r"clip.mp4: frames of 128x64 have 8192 pixels, expected at most max_pixels=8191"
    ):
        read_frames(path, 8, max_pixels=8191)


def test_frames_that_grow_too_large_are_refused(tmp_path):
    parts = [write_numbered(tmp_path / f"{w}.ts", STREAM._replace(size=(w, 64)), 24) for w in (128, 512)]
    path = tmp_path / "joined.ts"
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    with pytest.raises(VideoError, match="joined.ts: broken video"):
        read_frames(path, None, max_pixels=128 * 64)


@pytest.mark.parametrize("text", ["#EXTM3U\n#EXTINF:1,\n{}\n#EXT-X-ENDLIST\n", "ffconcat version 1.0\nfile {}\n"])
def test_a_playlist_opens_no_other_file(text, tmp_path):
    target = write_numbered(tmp_path / "target.ts", STREAM, 24)
    path = tmp_path / "list.mp4"
    path.write_text(text.format(target))
    with pytest.raises(VideoError, match="list.mp4: a playlist"):
        read_frames(path, 4)


@pytest.mark.parametrize(
    "name", ["a:b/c.mp4", "file:/x.mp4", "concat:a|b.mp4", "http://x/y.mp4", "-i.mp4", "%03d.mp4", "é\udcff.mp4"]
)
@pytest.mark.parametrize("absolute", [True, False])
def test_a_path_is_a_path_whatever_it_looks_like(name, absolute, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(write_numbered(tmp_path / "clip.mp4", X264, 8), path)
    assert numbers(read_frames(path if absolute else name, 2)) == [0, 4]
    with pytest.raises(VideoError, match="no such file"):
        read_frames("file:clip.mp4", 2)


def test_a_pipe_does_not_block(tmp_path):
    os.mkfifo(tmp_path / "pipe.mp4")
    with pytest.raises(VideoError, match="pipe.mp4: not a regular file"):
        read_frames(tmp_path / "pipe.mp4", 2)


def test_the_cover_picture_of_music_is_no_video(tmp_path):
    path = tmp_path / "song.mp4"
    with av.open(str(path), "w") as container:
        sound = container.add_stream("aac", rate=16_000, layout="mono")
        cover = container.add_stream("png", rate=1)
        cover.width, cover.height, cover.pix_fmt = 16, 16, "rgb24"
        cover.disposition = av.stream.Disposition.attached_pic
        container.mux(cover.encode(av.VideoFrame.from_ndarray(np.zeros((16, 16, 3), np.uint8), format="rgb24")))
        for number in range(8):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            frame.sample_rate, frame.pts = 16_000, number * 1024
            container.mux(sound.encode(frame))
        container.mux(sound.encode())
    with pytest.raises(VideoError, match="song.mp4: no video track"):
        read_frames(path, 2)


def test_an_mp4_in_fragments_whose_first_part_has_a_table(tmp_path):
    kind = X264._replace(container_options={"movflags": "frag_keyframe"})
    assert numbers(read_frames(write_numbered(tmp_path / "clip.mp4", kind, 60), None)) == list(range(60))


def test_a_file_that_promises_more_frames_than_it_holds(endless):
    with av.open(str(endless)) as container:
        count = sum(1 for _ in container.decode(video=0))
    video = read_frames(endless, None)
    assert len(video) == count < 50
    assert torch.equal(read_frames(endless, 8), video[sample_indices(count, 8)])


@pytest.mark.parametrize(
    "format", ["yuv420p", "yuvj420p", "gray", "gray16le", "yuv420p10le", "yuv444p12le", "rgb48le", "bgr0"]
)
def test_depths_and_ranges_of_colour(format, tmp_path):
    values = [0, 64, 128, 192, 255]
    frames = [np.full((16, 16, 3), value, np.uint8) for value in values]
    path = tmp_path / "clip.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg" if format == "yuvj420p" else "ffv1", rate=8)
        stream.width, stream.height, stream.pix_fmt = 16, 16, format
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24").reformat(format=format)))
        container.mux(stream.encode())
    assert np.abs(read_frames(path, 5).float().mean((1, 2, 3)).numpy() - values).max() <= 2


@pytest.mark.parametrize(
    "format, red", [("rgb555be", 31 << 10), ("rgb565be", 31 << 11), ("bgr555be", 31), ("bgr565be", 31)]
)
def test_colours_of_two_bytes_in_the_order_of_quicktime(format, red, tmp_path):
    frame = av.VideoFrame(16, 16, format)
    frame.planes[0].update(np.full(frame.planes[0].buffer_size // 2, red, ">u2").tobytes())
    path = tmp_path / "clip.nut"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("rawvideo", rate=8)
        stream.width, stream.height, stream.pix_fmt = 16, 16, format
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    assert (read_frames(path, 1).int() - torch.tensor([255, 0, 0])).abs().max() <= 8


def test_colours_that_cannot_be_converted_are_named(tmp_path):
    path = tmp_path / "clip.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=8, options={"x264-params": "colormatrix=YCgCo"})
        stream.width, stream.height, stream.pix_fmt = 16, 16, "yuv444p"
        container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((16, 16, 3), np.uint8), format="rgb24")))
        container.mux(stream.encode())
    with pytest.raises(VideoError, match="clip.mp4: broken video: its colours are stored in a form, such as YCgCo"):
        read_frames(path, 1)


def test_decord_reads_a_plain_clip(clip):
    ours, theirs = read_clip(clip, 8), read_clip(clip, 8, decoder="decord")
    assert torch.allclose(ours.times, theirs.times, atol=1e-3)
    assert (ours.frames.int() - theirs.frames.int()).abs().max() <= 3
    assert len(read_frames(clip, None, decoder="decord")) == 40


def test_decord_refuses_what_is_too_large_before_it_decodes(tmp_path):
    path = write_video(tmp_path / "noise.mp4", noise(4))
    with pytest.raises(VideoError, match="expected at most max_pixels=100"):
        read_frames(path, 2, decoder="decord", max_pixels=100)


def test_a_container_that_cannot_seek_is_read_from_its_start(tmp_path, monkeypatch):
    def refuse(*_):
        raise av.error.ArgumentError(22, "Invalid argument")

    path = write_numbered(tmp_path / "clip.mkv", X264._replace(suffix=".mkv"), 40)
    monkeypatch.setattr(video_file.VideoFile, "seek", refuse)
    assert numbers(read_frames(path, None)) == list(range(40))
    assert numbers(read_frames(path, 4)) == [0, 10, 20, 30]
