"""Videos that end too early, or whose packets come in odd ways, are read as far as they go, or refused clearly."""

import shutil
import subprocess
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from helpers import flv
from helpers.clips import grey, noise, write_video
from helpers.numbered import Kind, numbers, picture, write_numbered

from stgt.data import video_file
from stgt.data.inspection import inspect
from stgt.data.video import MAX_PIXELS, VideoError, read_clip, read_frames, sample_indices

CLIPS = Path(__file__).parent.parent / "assets" / "clips"


def packets_of(path):
    with av.open(str(path)) as container:
        return [packet for packet in container.demux(video=0) if packet.size]


@pytest.mark.parametrize(
    "kind",
    [
        Kind(".flv", "libx264", codec_options={"bf": "0"}),
        Kind(".flv", "flashsv", pix_fmt="bgr24"),
        Kind(".mp4", "libx264", codec_options={"bf": "0"}, container_options={"movflags": "frag_keyframe+empty_moov"}),
        Kind(".ivf", "libvpx-vp9", codec_options={"lag-in-frames": "0"}),
        Kind(".avi", "rawvideo"),
        Kind(".avi", "utvideo"),
        Kind(".avi", "dvvideo", size=(720, 576)),
        Kind(".mkv", "libx264", codec_options={"bf": "0"}),
        Kind(".nut", "rawvideo"),
        Kind(".avi", "png", pix_fmt="rgb24"),
        Kind(".mjpeg", "mjpeg", pix_fmt="yuvj420p"),
    ],
    ids=str,
)
def test_a_file_that_is_cut_in_its_last_packet_gives_the_frames_before(kind, tmp_path):
    path = write_numbered(tmp_path / f"clip{kind.suffix}", kind, 60)
    # 20 bytes are too few for any of these decoders.
    path.write_bytes(path.read_bytes()[: packets_of(path)[41].pos + 20])
    whole = read_clip(path, None)
    assert numbers(whole.frames) == list(range(41))
    for frames in (1, 4, 16):
        sampled = read_clip(path, frames)
        wanted = torch.from_numpy(sample_indices(41, frames))
        assert torch.equal(sampled.frames, whole.frames[wanted]) and torch.equal(sampled.times, whole.times[wanted])
    assert inspect(path, "pyav", max_pixels=MAX_PIXELS).cause is None


@pytest.mark.parametrize("last", [30, 31])
def test_a_last_frame_with_lost_bytes_is_the_same_from_wherever_decoding_begins(last, tmp_path):
    texture = noise(1, size=160)[0]
    moving = [np.ascontiguousarray(texture[:64, 3 * i % 96 :][:, :64]) for i in range(60)]
    path = write_video(tmp_path / "clip.ts", moving, gop=10)
    packet = packets_of(path)[last]
    path.write_bytes(path.read_bytes()[: packet.pos + packet.size // 2])
    whole = read_clip(path, None)
    for frame, time in zip(whole.frames[-3:], whole.times[-3:], strict=True):
        assert torch.equal(read_frames(path, 1, start=time.item())[0], frame)


def test_a_realmedia_file_may_be_cut_anywhere(tmp_path):
    kind = Kind(".rm", "rv20", size=(176, 144), codec_options={"qmin": "1", "qmax": "1"})
    path = write_numbered(tmp_path / "clip.rm", kind, 60)
    data, last = path.read_bytes(), packets_of(path)[41].pos
    for rest in range(20, 8000, 500):  # several places of such a rest cannot be read
        path.write_bytes(data[: last + rest])
        assert numbers(read_frames(path, None))[:41] == list(range(41))


def test_a_broken_packet_is_an_error_unless_it_is_the_last(tmp_path):
    for broken, whole in ((20, False), (39, True)):
        replace = {broken: b"too short"}.get
        path = write_video(tmp_path / "clip.avi", grey(40), codec="utvideo", replace=replace)
        if whole:
            assert len(read_frames(path, None)) == 39
            continue
        for frames in (None, 2):
            with pytest.raises(VideoError, match="clip.avi: broken video"):
                read_frames(path, frames)


def test_a_container_that_breaks_off_ends_there_and_one_that_goes_on_is_broken(tmp_path, monkeypatch):
    """Bare AV1 streams and RealMedia files end with an error if they are cut short."""
    path = write_numbered(tmp_path / "clip.mkv", Kind(".mkv", "mpeg4"), 60)
    packets = video_file.VideoFile.packets

    class Container:
        def __init__(self, real, broken, left):
            self.real, self.broken, self.left, self.calls = real, broken, left, 0

        def demux(self, stream):
            self.calls += 1
            found = list(self.real.demux(stream))
            return self._broken(found) if self.calls == 1 else iter(found[: self.left])

        def _broken(self, found):
            yield from found[: self.broken]
            self.real.seek(0)
            raise av.error.InvalidDataError(1094995529, "Invalid data found when processing input")

        def __getattr__(self, name):
            return getattr(self.real, name)

    def read(left):
        with video_file.VideoFile(path, max_pixels=MAX_PIXELS, deadline=None) as file:
            real, file.container = file.container, Container(file.container, 40, left)
            try:
                return len(list(packets(file))) - 1, file.is_cut_short
            finally:
                file.container = real

    assert read(0) == (40, True) and read(1) == (40, True)
    with pytest.raises(av.error.InvalidDataError):
        read(2)


@pytest.mark.parametrize("kind", [Kind(".mp4", "mpeg2video"), Kind(".mp4", "libsvtav1")], ids=str)
@pytest.mark.parametrize("frames", [None, 4])
def test_a_file_whose_decoder_gives_no_frame_is_a_broken_video(kind, frames, tmp_path):
    path = write_numbered(tmp_path / "clip.mp4", kind, 30)
    data = bytearray(path.read_bytes())
    for packet in packets_of(path):
        data[packet.pos : packet.pos + packet.size] = bytes(packet.size)
    path.write_bytes(data)
    with pytest.raises(VideoError, match="clip.mp4: (broken video|the video track has no frames)"):
        read_frames(path, frames)


def test_sound_that_nothing_announced_does_no_harm(tmp_path):
    """FFmpeg looks for streams in the first 90 seconds of an FLV file."""
    part = write_numbered(tmp_path / "part.flv", Kind(".flv", "libx264", codec_options={"bf": "0"}), 30)
    path = flv.join(tmp_path / "live.flv", [part] * 7, range(0, 140_000, 20_000))
    with open(path, "ab") as file:
        file.write(flv.sound(121_200) + flv.sound(121_226))
    with av.open(str(path)) as container:
        assert len(container.streams) == 1
    assert numbers(read_frames(path, None)) == [*range(30)] * 7
    assert numbers(read_frames(path, 4)) == [number % 30 for number in sample_indices(210, 4)]


def test_frames_that_are_stored_as_empty_packets_are_shown_for_longer(tmp_path):
    path = tmp_path / "still.nut"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg", rate=25)
        stream.width, stream.height, stream.pix_fmt = 128, 64, "yuvj420p"
        for number in range(30):
            for packet in stream.encode(av.VideoFrame.from_ndarray(picture(number, (128, 64)), format="rgb24")):
                if number % 10:
                    empty = av.Packet(b"")
                    empty.pts, empty.dts, empty.time_base = packet.pts, packet.dts, packet.time_base
                    empty.stream = stream
                    packet = empty
                container.mux(packet)
    clip = read_clip(path, None)
    assert numbers(clip.frames) == [0, 10, 20] and clip.times.tolist() == pytest.approx([0, 0.4, 0.8])
    assert numbers(read_frames(path, 2)) == [0, 10]


@pytest.mark.parametrize("suffix", [".avi", ".mkv", ".mp4"])
def test_frames_that_mpeg4_does_not_code_are_no_frames(suffix, tmp_path):
    """DivX and Xvid write a packet of a few bytes for a frame that is like the one before it."""
    kind = Kind(suffix, "mpeg4", gop=50, codec_options={"sc_threshold": "1000000000"})
    made = write_numbered(tmp_path / f"coded{suffix}", kind, 120)
    path = tmp_path / f"clip{suffix}"
    with av.open(str(made)) as source, av.open(str(path), "w") as container:
        stream = container.add_stream_from_template(source.streams.video[0])
        for number, packet in enumerate(packet for packet in source.demux(video=0) if packet.size):
            if 44 <= number < 50:  # up to the next keyframe, and before the second frame of the sample below
                uncoded = av.Packet(b"\0\0\1\xb6\x50\xcf")
                uncoded.pts, uncoded.dts, uncoded.time_base = packet.pts, packet.dts, packet.time_base
                packet = uncoded
            packet.stream = stream
            container.mux(packet)
    expected = [*range(44), *range(50, 120)]
    clip = read_clip(path, None)
    assert numbers(clip.frames) == expected
    wanted = sample_indices(114, 2)
    sampled = read_clip(path, 2)
    assert numbers(sampled.frames) == [expected[number] for number in wanted]
    assert torch.equal(sampled.times, clip.times[torch.from_numpy(wanted)])


@pytest.fixture
def theora(tmp_path):
    if shutil.which("ffmpeg") is None:
        pytest.skip("there is no ffmpeg on PATH")
    path = tmp_path / "still.ogv"
    source = ["-f", "lavfi", "-i", "color=red:s=128x96:r=25:d=2"]
    made = subprocess.run(["ffmpeg", "-v", "error", *source, "-c:v", "libtheora", str(path)], capture_output=True)
    if made.returncode:
        pytest.skip("this ffmpeg has no encoder libtheora")
    return path


def test_theora_stores_frames_that_do_not_change_as_empty_packets(theora):
    clip = read_clip(theora, None)
    assert clip.times.tolist() == pytest.approx([0, 0.48, 0.96, 1.44, 1.92])
    assert (clip.frames.float().mean((0, 1, 2)) - torch.tensor([253.0, 0, 0])).abs().max() < 5
    assert len(read_frames(theora, 8)) == 8


def test_ogg_files_that_are_chained_are_refused_clearly(theora):
    theora.write_bytes(theora.read_bytes() * 2)
    with pytest.raises(VideoError, match="still.ogv: broken video: there is a packet that cannot be decoded"):
        read_frames(theora, None)


def test_a_picture_that_is_made_of_tiles_is_refused():
    """The file holds a red and a blue tile, side by side."""
    with pytest.raises(VideoError, match="tiles.avif: a picture that is made of tiles"):
        read_frames(CLIPS / "tiles.avif", 1)


def test_an_avi_file_whose_video_begins_after_its_sound(tmp_path):
    for late in (0, 50):
        path = tmp_path / f"{late}.avi"
        with av.open(str(path), "w") as container:
            sound = container.add_stream("mp2", rate=16_000, layout="mono")
            stream = container.add_stream("mpeg4", rate=25, options={"bf": "2"})
            stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
            for number in range(100):
                frame = av.AudioFrame.from_ndarray(np.zeros((1, 1152), np.int16), format="s16", layout="mono")
                frame.sample_rate, frame.pts = 16_000, number * 1152
                container.mux(sound.encode(frame))
            for number, image in enumerate(grey(30)):
                frame = av.VideoFrame.from_ndarray(image, format="rgb24")
                frame.pts, frame.time_base = number + late, Fraction(1, 25)
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
            container.mux(sound.encode())
        times = read_clip(path, None).times
        assert len(times) == 30 and abs(times[0].item() - late / 25) < 0.05
        assert (times.diff() - 0.04).abs().max() < 1e-6


def test_a_file_that_may_not_be_read_is_named_with_that_cause(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise av.error.PermissionError(13, "Permission denied")

    path = write_video(tmp_path / "clip.mp4", grey(4))
    monkeypatch.setattr(av, "open", refuse)
    with pytest.raises(VideoError, match="clip.mp4: broken video: Permission denied"):
        read_frames(path, 2)
