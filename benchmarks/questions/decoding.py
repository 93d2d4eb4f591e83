"""11. How long does reading 8 frames of a file take, compared with decord, and does the file's length matter?"""

import tempfile
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.case import Bench, Case
from benchmarks.clips import repeat_clip, write_clip
from benchmarks.rows import Row
from stgt.data.video import read_frames, sample_indices

OURS, DECORD = "stgt, PyAV", "decord"
CLIP, FILM = "stgt, clip of 1 minute", "stgt, film of 2 hours"
LONG = "a film and a clip with the same groups of pictures, in turns"
FRAMES = 8


def cases(device: str, quick: bool) -> list[Case]:
    sizes = [(10, 320, 240, 250)] if quick else [(10, 320, 240, 250), (20, 320, 240, 50), (30, 640, 360, 250)]
    clips = [Case(name_of(*size), partial(compare, size=size)) for size in sizes]
    return [*clips, Case(LONG, partial(length, minutes=4 if quick else 120))]


def name_of(seconds: int, width: int, height: int, gop: int) -> str:
    return f"H.264 in MP4, {seconds} s of {width}x{height}, a keyframe every {gop} frames"


def compare(bench: Bench, *, size: tuple[int, int, int, int]) -> list[Row]:
    """Compares both readers on one clip, with one thread each. Raises ValueError if their frames differ."""
    seconds, width, height, gop = size
    with tempfile.TemporaryDirectory() as folder:
        path = write_clip(Path(folder) / "clip.mp4", seconds=seconds, width=width, height=height, gop=gop)
        functions = {OURS: partial(read_frames, path, FRAMES), DECORD: partial(with_decord, path)}
        apart = np.abs(functions[OURS]().numpy().astype(int) - functions[DECORD]())
        if apart.mean() > 2:  # smaller differences come from rounding in the conversion of colours
            raise ValueError(f"the readers return different frames: they are {apart.mean():g} of 255 apart on average")
        return rows_of(bench, functions)


def length(bench: Bench, *, minutes: int) -> list[Row]:
    """Compares a film with a clip. The film takes longer only because its table of packets is longer."""
    with tempfile.TemporaryDirectory() as folder:
        clip = write_clip(Path(folder) / "clip.mp4", seconds=60, width=320, height=240, gop=50)
        film = repeat_clip(clip, Path(folder) / "film.mp4", minutes)
        return rows_of(bench, {CLIP: partial(read_frames, clip, FRAMES), FILM: partial(read_frames, film, FRAMES)})


def rows_of(bench: Bench, functions: dict) -> list[Row]:
    return [Row.timed(name, "uint8", {}, timing) for name, timing in bench.measure(functions, bench.seconds).items()]


def with_decord(path: Path) -> np.ndarray:
    """Reads frames as the released pipeline does, with one thread."""
    import decord

    reader = decord.VideoReader(str(path), ctx=decord.cpu(0), num_threads=1)
    return reader.get_batch(sample_indices(len(reader), FRAMES).tolist()).asnumpy()
