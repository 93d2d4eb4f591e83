"""Files that a data set may meet: real clips, short clips, and broken files of many kinds."""

import av
import numpy as np
import pytest
from helpers.clips import grey, noise, write_video


@pytest.fixture(scope="session")
def clip(tmp_path_factory):
    return write_video(tmp_path_factory.mktemp("clip") / "clip.mp4", grey(40), crf="0")


@pytest.fixture(scope="session")
def broken(tmp_path_factory, real_clips):
    """{kind of damage: (file, a part of the expected error)}"""
    folder = tmp_path_factory.mktemp("broken")
    real = next(path for path in real_clips if path.name == "bikes.mp4").read_bytes()
    files = {
        "missing": (folder / "missing.mp4", "no such file"),
        "folder": (folder, "no such file"),
        "empty": (folder / "empty.mp4", "empty"),
        "text": (folder / "text.mp4", "not a video"),
        "random": (folder / "random.mp4", "not a video"),
        "truncated": (folder / "truncated.mp4", "cut short"),
        "truncated after its index": (folder / "partial.mp4", "broken video"),
        "damaged": (folder / "damaged.mp4", "broken video"),
        "audio": (folder / "audio.mp4", "no video track"),
    }
    files["empty"][0].touch()
    files["text"][0].write_text("these are not the frames you are looking for\n" * 99)
    files["random"][0].write_bytes(np.random.default_rng(0).bytes(20_000))
    files["truncated"][0].write_bytes(real[: len(real) // 2])
    whole = write_video(folder / "whole.mp4", noise(48), movflags="faststart").read_bytes()
    files["truncated after its index"][0].write_bytes(whole[: len(whole) * 6 // 10])
    files["damaged"][0].write_bytes(real[:200_000] + bytes(200_000) + real[400_000:])
    _write_sound(files["audio"][0])
    return files


@pytest.fixture(scope="session")
def endless(tmp_path_factory):
    """A file that promises 1600 frames and holds 40. The rest are MPEG-4 packets that mean "nothing was coded"."""
    nothing = bytes([0, 0, 1, 0xB6, 0x50, 0, 0, 0])
    path = tmp_path_factory.mktemp("endless") / "endless.mp4"
    return write_video(path, grey(1600), codec="mpeg4", replace=lambda number: nothing if number >= 40 else None)


def _write_sound(path):
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16_000, layout="mono")
        for number in range(20):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            frame.sample_rate, frame.pts = 16_000, number * 1024
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
