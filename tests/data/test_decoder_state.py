"""Videos whose sampled frames are right although a seek alone would not bring the decoder into the right state."""

import io
import struct
from fractions import Fraction

import av
import numpy as np
import pytest
import torch
from helpers import flv
from helpers.numbered import Kind, numbers, picture, write_numbered
from PIL import Image

from stgt.data import video_file
from stgt.data.video import read_clip, read_frames, sample_indices

X264 = Kind(".mp4", "libx264", codec_options={"bf": "2"})
COUNT = 60


def require_the_right_samples(path, count=COUNT):
    assert numbers(read_frames(path, None)) == list(range(count))
    for frames in (1, 2, 3, 4, 8):
        assert numbers(read_frames(path, frames)) == sample_indices(count, frames).tolist()
    for first in (0, 5, count // 2 + 1, count - 1):
        assert numbers(read_frames(path, 1, start=first / 25)) == [first]


def test_the_palette_of_a_long_film_is_in_its_first_packet(tmp_path):
    kind = Kind(".mov", "qtrle", pix_fmt="gray", size=(132, 16))
    path = write_numbered(tmp_path / "film.mov", kind, 4200, bits=13)
    assert numbers(read_frames(path, 4), 13) == sample_indices(4200, 4).tolist()


@pytest.mark.parametrize("size", [(128, 64), (64, 128)])
def test_a_live_stream_whose_encoder_was_set_anew(size, tmp_path):
    kind = Kind(".flv", "libx264", codec_options={"bf": "0"})
    other = kind._replace(size=size, codec_options={"bf": "0", "x264-params": "cabac=0:ref=1:8x8dct=0"})
    parts = [write_numbered(tmp_path / f"{i}.flv", k, 50) for i, k in enumerate((kind, other))]
    path = flv.join(tmp_path / "live.flv", parts, (0, 2000))
    whole = read_clip(path, None)
    assert whole.frames.shape == (100, 64, 128, 3) and numbers(whole.frames) == [*range(50), *range(50)]
    for frames in (2, 3, 8):
        assert torch.equal(read_frames(path, frames), whole.frames[sample_indices(100, frames)])
    for first in (3, 50, 75, 99):
        assert torch.equal(read_frames(path, 1, start=first / 25), whole.frames[first : first + 1])


@pytest.mark.parametrize(
    "kind",
    [
        X264,
        Kind(".mp4", "libx264", codec_options={"bf": "0"}),
        Kind(".mp4", "mpeg4", codec_options={"bf": "2"}),
        Kind(".mp4", "libx265", codec_options={"x265-params": "log-level=error:keyint=12"}),
        Kind(".mp4", "libvpx-vp9", codec_options={"lag-in-frames": "0"}),
        Kind(".mov", "qtrle", pix_fmt="rgb24"),  # its decoder does not tell which frames are keyframes
        Kind(".mov", "svq1", pix_fmt="yuv410p"),
    ],
    ids=str,
)
def test_an_mp4_without_a_list_of_its_keyframes(kind, tmp_path):
    """A player then takes all packets for keyframes."""
    path = write_numbered(tmp_path / f"clip{kind.suffix}", kind, COUNT)
    data = path.read_bytes()
    assert data.count(b"stss") == 1
    path.write_bytes(data.replace(b"stss", b"free"))
    require_the_right_samples(path)


@pytest.mark.parametrize(
    "kind",
    [
        Kind(".avi", "mpeg4"),
        Kind(".avi", "msmpeg4"),
        Kind(".avi", "zmbv", pix_fmt="bgr0"),
        Kind(".avi", "libx264", codec_options={"bf": "0"}),
        Kind(".avi", "msvideo1", pix_fmt="rgb555le"),
    ],
    ids=str,
)
def test_an_avi_whose_index_marks_every_packet(kind, tmp_path):
    path = write_numbered(tmp_path / "clip.avi", kind, COUNT)
    data = bytearray(path.read_bytes())
    index = data.rindex(b"idx1")
    for place in range(index + 12, index + 8 + struct.unpack_from("<I", data, index + 4)[0], 16):
        data[place] |= 0x10
    path.write_bytes(data)
    require_the_right_samples(path)


@pytest.mark.parametrize("kind", [X264, Kind(".mov", "qtrle", pix_fmt="rgb24")], ids=str)
def test_decoding_still_begins_at_keyframes(kind, tmp_path, monkeypatch):
    """Most files are right, and if a decoder never tells which frames are keyframes, such a file is believed."""
    path = write_numbered(tmp_path / f"clip{kind.suffix}", kind._replace(gop=20), 120)
    decoded = []
    frames = video_file.VideoFile.frames
    monkeypatch.setattr(
        video_file.VideoFile, "frames", lambda self, packets: (decoded.append(f) or f for f in frames(self, packets))
    )
    assert numbers(read_frames(path, 2)) == [0, 60]
    assert len(decoded) < 10


def jpeg(number, orientation):
    exif = Image.Exif()
    exif[0x112] = orientation
    file = io.BytesIO()
    Image.fromarray(picture(number, (128, 64))).save(file, "JPEG", exif=exif, quality=95)
    return file.getvalue()


@pytest.mark.parametrize("suffix", [".avi", ".mov", ".mkv", ".mp4"])
@pytest.mark.parametrize(
    ("orientation", "shown"),
    [(1, lambda x: x), (2, lambda x: x[:, ::-1]), (5, lambda x: x.swapaxes(0, 1)), (6, lambda x: np.rot90(x, -1))],
)
def test_a_camera_may_write_exif_data_into_each_frame(suffix, orientation, shown, tmp_path):
    path = tmp_path / f"camera{suffix}"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg", rate=25)
        stream.width, stream.height, stream.pix_fmt = 128, 64, "yuvj420p"
        for number in range(10):
            packet = av.Packet(jpeg(number, orientation))
            packet.pts = packet.dts = number
            packet.time_base, packet.stream, packet.is_keyframe = Fraction(1, 25), stream, True
            container.mux(packet)
    for frames in (None, 4):
        expected = range(10) if frames is None else sample_indices(10, frames)
        for frame, number in zip(read_frames(path, frames).numpy(), expected, strict=True):
            upright = shown(picture(number, (128, 64)))
            assert frame.shape == upright.shape
            assert np.abs(frame.astype(int) - upright).mean() < 8  # JPEG blurs the edges of the bars
