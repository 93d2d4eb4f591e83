import pickle

import numpy as np
import pytest
import torch
from helpers.clips import grey, write_video
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from stgt.data.inspection import inspect
from stgt.data.video import MAX_PIXELS, VideoError, frame_window, read_frames, sample_indices

lengths, frame_counts = st.integers(1, 400), st.integers(1, 70)
generators = st.none() | st.integers(0, 2**31).map(lambda seed: torch.Generator().manual_seed(seed))


@settings(deadline=None)
@given(lengths, frame_counts, st.sampled_from(["uniform", "headtail"]), generators)
def test_indices_are_in_range_ascending_and_as_many_as_asked(length, frames, sampling, rng):
    indices = sample_indices(length, frames, sampling, rng)
    assert indices.shape == (frames,)
    assert indices.min() >= 0 and indices.max() < length
    repeated = max(0, frames - length)
    assert (np.diff(indices[: frames - repeated]) > 0).all()
    assert (indices[frames - repeated :] == length - 1).all()


@settings(deadline=None)
@given(lengths, frame_counts)
def test_uniform_is_arange_in_equal_steps(length, frames):
    exact = [i * length // frames for i in range(frames)] if length > frames else list(range(length))
    assert sample_indices(length, frames).tolist()[: len(exact)] == exact


@settings(deadline=None)
@given(st.integers(2, 400), st.integers(1, 70), generators)
def test_headtail_takes_half_of_the_frames_from_each_half(length, frames, rng):
    frames = min(frames, length)
    head = (sample_indices(length, frames, "headtail", rng) < length // 2).sum()
    assert head == frames // 2


def test_headtail_draws_only_with_a_generator():
    drawn = {tuple(sample_indices(100, 8, "headtail", torch.Generator().manual_seed(seed))) for seed in range(20)}
    assert len(drawn) == 20
    assert sample_indices(100, 4, "headtail").tolist() == [12, 37, 62, 87]


def test_a_window_that_ends_before_the_first_frame_shows_it():
    class LateVideo:
        def between(self, start, end):
            return tuple(np.searchsorted([0.5, 0.6, 0.7], [start, end]).tolist())

    windows = [(0.0, 0.1), (0.0, 0.55), (0.65, 0.7), (0.8, 0.9)]
    assert [frame_window(LateVideo(), *window) for window in windows] == [(0, 1), (0, 1), (1, 2), (2, 3)]


@pytest.mark.parametrize(
    "arguments, message",
    [((0, 8), "length is 0"), ((8, 0), "frames is 0"), ((8, 2, "random"), "sampling is 'random'.*'headtail'")],
)
def test_impossible_requests_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        sample_indices(*arguments)


@pytest.mark.parametrize("frames", [1, 2, 5, 8, 39, 40, 47])
def test_the_frames_asked_for_are_the_ones_decoded(clip, frames):
    video = read_frames(clip, frames)
    assert video.dtype == torch.uint8 and video.shape == (frames, 32, 32, 3)
    numbers = video.float().mean((1, 2, 3)) / 4
    assert np.abs(numbers.numpy() - sample_indices(40, frames)).max() < 0.6


def test_every_frame_where_no_number_is_given(clip):
    assert read_frames(clip, None).shape == (40, 32, 32, 3)


def test_a_clip_of_one_frame(tmp_path):
    path = write_video(tmp_path / "one.mp4", grey(1))
    for sampling in ("uniform", "headtail"):
        video = read_frames(path, 8, sampling, torch.Generator())
        assert video.shape == (8, 32, 32, 3) and (video == video[0]).all()


def test_real_clips(real_clips):
    shapes = {path.name: tuple(read_frames(path, 5, "headtail").shape) for path in real_clips}
    assert shapes == {
        "bigbuckbunny.mp4": (5, 720, 1280, 3),
        "bikes.mp4": (5, 272, 640, 3),
        "carphone_distorted.mp4": (5, 144, 176, 3),
        "carphone_pristine.mp4": (5, 144, 176, 3),
    }


def test_every_kind_of_broken_file_is_named_with_its_cause(broken):
    for damage, (path, cause) in broken.items():
        with pytest.raises(VideoError) as error:
            read_frames(path, 8)
        assert str(error.value).startswith(f"{path}: "), damage
        assert cause in str(error.value), damage
        assert cause in inspect(path, "pyav", max_pixels=MAX_PIXELS).cause, damage


def test_the_error_crosses_process_boundaries():
    error = pickle.loads(pickle.dumps(VideoError("a.mp4: no such file")))
    assert isinstance(error, VideoError) and str(error) == "a.mp4: no such file"


@pytest.mark.parametrize(("name", "decoder"), [("a.mp4", "pyav"), ("a.mp4", "decord"), ("a.webp", "pyav")])
def test_frames_that_would_fill_the_memory_are_refused(name, decoder, tmp_path, monkeypatch):
    if decoder == "decord":
        pytest.importorskip("decord", reason="decord has no wheels for this machine")
    path = tmp_path / name
    if name == "a.mp4":
        write_video(path, grey(20))
    else:
        first, *more = map(Image.fromarray, grey(20))
        first.save(path, save_all=True, append_images=more, duration=100, lossless=True)
    monkeypatch.setattr("stgt.data.errors.MAX_BYTES", 10 * 32 * 32 * 3)
    assert len(read_frames(path, 10, decoder=decoder)) == 10
    with pytest.raises(VideoError, match=rf"{name}: 20 frames of 32 × 32 pixels take .* ask for fewer frames"):
        read_frames(path, None, decoder=decoder)
