"""Files of many encoders in many containers: every way of reading gives the frames that a player shows."""

import json
import os
from pathlib import Path

import pytest
import torch
from helpers.numbered import BITS, KINDS, numbers, write_numbered

from stgt.data.inspection import inspect
from stgt.data.samples import VideoDataset
from stgt.data.video import MAX_PIXELS, read_clip, read_frames, sample_indices

CLIPS = Path(__file__).parent.parent / "assets" / "clips"
RECORDED = json.loads((CLIPS / "frames.json").read_text())
COUNT = 60


@pytest.fixture(scope="module", params=KINDS, ids=str)
def numbered(request, tmp_path_factory):
    return write_numbered(tmp_path_factory.mktemp("numbered") / f"clip{request.param.suffix}", request.param, COUNT)


def require_the_same_frames_however_read(path, expected, bits):
    """Read a file whole, in samples, in windows and from a cache; each way must give the frames of a player."""
    whole = read_clip(path, None)
    assert numbers(whole.frames, bits) == expected
    assert (whole.times.diff() > 0).all() and whole.times[0] == 0
    count = len(expected)
    for frames in (1, 3, 8, 16):
        wanted = torch.from_numpy(sample_indices(count, frames))
        sampled = read_clip(path, frames)
        assert torch.equal(sampled.frames, whole.frames[wanted]) and torch.equal(sampled.times, whole.times[wanted])
    drawn = read_frames(path, 7, "headtail", torch.Generator().manual_seed(3))
    assert torch.equal(drawn, whole.frames[sample_indices(count, 7, "headtail", torch.Generator().manual_seed(3))])
    first, stop = count // 3 + 1, count // 2 + 2
    window = read_clip(path, None, start=whole.times[first].item(), end=whole.times[stop].item())
    assert torch.equal(window.frames, whole.frames[first:stop]) and torch.equal(window.times, whole.times[first:stop])
    found = inspect(path, "pyav", max_pixels=MAX_PIXELS)
    assert found.cause is None and found.facts["frames"] == count
    cached, fresh = (
        VideoDataset([path.name], path.parent, frames=5, transform=lambda x: x, cache=cache)[0]["video"]
        for cache in (True, False)
    )
    assert torch.equal(cached, fresh)


def test_frames_are_the_same_however_they_are_read(numbered):
    require_the_same_frames_however_read(numbered, list(range(COUNT)), BITS)


@pytest.mark.parametrize("name", sorted(name for name, clip in RECORDED.items() if "frames" in clip))
def test_clips_that_decoders_get_wrong(name):
    require_the_same_frames_however_read(CLIPS / name, RECORDED[name]["frames"], RECORDED[name]["bits"])


@pytest.mark.parametrize("name", sorted(name for name, clip in RECORDED.items() if "length" in clip))
def test_clips_whose_container_does_not_tell_their_length(name):
    whole = read_frames(CLIPS / name, None)
    assert len(whole) == RECORDED[name]["length"]
    assert torch.equal(read_frames(CLIPS / name, 4), whole[sample_indices(len(whole), 4)])


@pytest.mark.skipif(not hasattr(os, "sched_getscheduler"), reason="this system has no scheduling policies")
def test_an_encoder_does_not_change_the_priority_of_the_tests(tmp_path):
    before = os.sched_getscheduler(0)
    write_numbered(tmp_path / "clip.mkv", next(kind for kind in KINDS if kind.codec == "libsvtav1"), 2)
    assert os.sched_getscheduler(0) == before
