"""The front door: a model from Python, without the command line."""

import subprocess
import sys

import pytest
import torch

import stgt
from stgt.distributed import World
from stgt.evaluation.encode import encode_videos
from stgt.runs import open_run


def test_videos_and_texts_are_embedded_as_evaluation_embeds_them(run, tmp_path):
    model = stgt.load(run, device="cpu")
    opened = open_run(run, "cpu")
    clips = opened.test_items()
    kept = encode_videos(opened.model, clips, tmp_path, World(0, 1, torch.device("cpu")), workers=0).all("queries")
    paths = [clips.root / video for video in clips.videos]
    videos = model.embed_videos(paths, batch_size=3)
    torch.testing.assert_close(videos, kept, atol=1e-5, rtol=0)
    texts = model.embed_texts(["a red circle grows", "a blue square is moving left"])
    assert videos.shape[0] == len(paths) and texts.shape == (2, videos.shape[2])
    torch.testing.assert_close(texts.norm(dim=-1), torch.ones(2))
    similarity = model.similarity(videos, texts)
    expected = torch.einsum("vqe,ne->vqn", videos, texts).amax(1)
    torch.testing.assert_close(similarity, expected)
    assert model.to("cpu") is model and model.device.type == "cpu"


@pytest.mark.parametrize("call", ["embed_videos", "embed_texts"])
@pytest.mark.parametrize("values", ["a.mp4", []])
def test_a_single_name_or_none_at_all_is_refused(run, call, values):
    with pytest.raises(ValueError, match="expected a list with at least one entry"):
        getattr(stgt.load(run, device="cpu"), call)(values)


def test_a_name_that_leads_nowhere_says_what_was_tried(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(OSError, match="'nobody/nothing' is no folder here, and the Hugging Face hub did not give"):
        stgt.load("nobody/nothing")


def test_importing_the_package_loads_nothing_else():
    code = "import sys, stgt; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "False"
