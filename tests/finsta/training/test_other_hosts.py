"""Hosts of transformers are post-trained and saved as folders that transformers opens."""

import pytest
import torch
from helpers import hosts

from stgt.finsta.hosts.folders import open_host
from stgt.finsta.saved import load_finsta
from stgt.paper.flops import count_flops


@pytest.mark.parametrize("kind", ["clip", "xclip", "blip2"])
def test_the_saved_folder_holds_the_same_model_with_other_weights(post_train, clips, tmp_path, kind):
    before = hosts.save_host(kind, tmp_path / "before")
    frames = [] if kind == "xclip" else ["--frames", 2]
    options = ["--host", kind, "--videos", clips / "videos", "--batch-size", 9, *frames]
    status, printed = post_train(tmp_path / "after", *options, host=before)
    assert status == 0, printed
    models = [hosts.MODELS[kind].from_pretrained(folder) for folder in (before, tmp_path / "after")]
    states = [model.state_dict() for model in models]
    assert [(name, tensor.shape) for name, tensor in states[0].items()] == [
        (name, tensor.shape) for name, tensor in states[1].items()
    ]
    assert not all(torch.equal(tensor, states[1][name]) for name, tensor in states[0].items())
    videos, texts, _, _ = hosts.clips()
    opened = [open_host(folder, kind, device="cpu").host for folder in (before, tmp_path / "after")]
    for host in opened:
        host.model.requires_grad_(False)  # the counter looks for gradients of the inputs of modules
    costs = [count_flops(lambda host=host: host.similarity(videos, texts)) for host in opened]
    assert costs[0] == costs[1] > 0
    assert load_finsta(tmp_path / "after").widths == opened[1].widths
