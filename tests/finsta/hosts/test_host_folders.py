"""Hosts are opened from folders, and refused if the folder holds something else."""

import pytest
import torch
from helpers.hosts import FRAMES, clips, save_host, tiny_host
from safetensors.torch import load_file, save_file

from stgt.finsta.hosts.folders import open_host


@pytest.mark.parametrize("kind", ["clip", "xclip", "blip2"])
def test_a_model_of_transformers_is_opened_and_saved(tmp_path, kind):
    opened = open_host(save_host(kind, tmp_path / "host"), kind, device="cpu")
    videos, texts, _, _ = clips()
    expected = tiny_host(kind).similarity(videos, texts)
    assert torch.equal(opened.host.similarity(videos, texts), expected)
    assert opened.data.frames == (FRAMES if kind == "xclip" else 8) and opened.precision == "fp32"
    grey = opened.transform(torch.full((1, 3, 4, 4), 51, dtype=torch.uint8))
    assert grey.shape == (1, 3, 32, 32)
    mean, std = (torch.tensor(values) for values in (opened.images.image_mean, opened.images.image_std))
    assert mean.tolist() == pytest.approx([0.5, 0.4, 0.3])
    assert torch.allclose(grey[0, :, 5, 5], (0.2 - mean) / std, atol=1e-6)
    opened.finish(tmp_path / "again")
    assert torch.equal(open_host(tmp_path / "again", kind, device="cpu").host.similarity(videos, texts), expected)


def test_a_run_of_ours_is_opened(run):
    opened = open_host(run, device="cpu")
    assert opened.data == opened.run.config.data and opened.precision == opened.run.config.precision
    assert not opened.host.model.training
    assert opened.host.similarity(torch.zeros(2, 4, 3, 32, 32), ["a red square"]).shape == (2, 1)


def test_another_model_is_refused(tmp_path, run):
    save_host("clip", tmp_path)
    with pytest.raises(ValueError, match="holds a model of type 'clip', expected 'xclip' for --host xclip"):
        open_host(tmp_path, "xclip")
    with pytest.raises(ValueError, match="kind is 'llava', expected one of 'stgt', 'clip', 'xclip', 'blip2'"):
        open_host(tmp_path, "llava")
    with pytest.raises(ValueError, match="tokenizer is 'words', expected none"):
        open_host(tmp_path, "clip", tokenizer="words")


@pytest.mark.parametrize(
    "kind, lost",
    [("clip", "text_projection.weight"), ("xclip", "visual_projection.weight"), ("blip2", "itm_head.bias")],
)
def test_a_model_whose_files_lack_parameters_is_refused(tmp_path, kind, lost):
    """transformers would fill them with random numbers, as it does where BLIP-2 was saved without its heads."""
    file = save_host(kind, tmp_path) / "model.safetensors"
    tensors = load_file(file)
    del tensors[lost]
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=rf"lacks 1 parameters of \w+, which would be random, .*: {lost}$"):
        open_host(tmp_path, kind, device="cpu")
