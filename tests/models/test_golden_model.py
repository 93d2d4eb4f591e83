"""The whole model reads the released names and gives the recorded features, logits, losses and gradients."""

import pytest
import torch
from helpers.recorded import (
    check_losses_and_gradients,
    check_words_and_matching,
    recorded_batch,
    recorded_config,
    recorded_weights,
)
from safetensors.torch import save_file

from stgt.models.stgt import STGT
from stgt.weights.load import load_released


@pytest.fixture
def recorded(golden, tmp_path):
    """A function recorded(backend, **switches) that returns the recorded model, its batch, and the record."""
    tensors, meta = golden("official_model_tiny")
    path = tmp_path / "released.safetensors"
    save_file(recorded_weights(tensors), path)

    def load(backend=("reference", "cpu"), **switches):
        run, device = backend
        model = STGT(recorded_config(meta, backend=run, **switches)).eval()
        assert load_released(model, path) == []
        return model.to(device), {key: value.to(device) for key, value in recorded_batch(tensors).items()}, tensors

    return load


@torch.no_grad()
def test_features_and_logits(recorded, backend, assert_near):
    model, batch, tensors = recorded(backend)
    tokens = model.visual_tokens(batch["video"])
    assert_near(tokens, tensors["visual_tokens"], "visual tokens")
    video = model.encode_video(tokens=tokens)
    assert_near(video.embeds, tensors["video_embeds"], "video embeddings")
    assert_near(video.queries, tensors["video_feats"], "video features")
    text = model.encode_text(batch["input_ids"], batch["attention_mask"])
    assert_near(model.similarity(video.queries, text) / model.temp, tensors["sim_v2t"], "similarity")
    assert_near(model.similarity(video.queries, text).T / model.temp, tensors["sim_t2v"], "similarity")
    check_words_and_matching(model, video.embeds, tensors, assert_near)


@pytest.mark.parametrize("alignment", ["vtc", "csal"])
def test_losses_and_gradients(alignment, recorded, backend, assert_near, monkeypatch):
    check_losses_and_gradients(alignment, *recorded(backend), assert_near, monkeypatch)


@pytest.mark.parametrize("alignment", ["vtc", "csal"])
def test_dense_attention_gives_the_same(alignment, recorded, assert_near, monkeypatch):
    check_losses_and_gradients(alignment, *recorded(attention="dense"), assert_near, monkeypatch)


def test_the_same_video_as_in_the_release_needs_its_frames_in_order(recorded, assert_near):
    model, batch, tensors = recorded()
    with torch.no_grad():
        backwards = model.encode_video(batch["video"].flip(1)).queries
    with pytest.raises(AssertionError, match="largest error"):
        assert_near(backwards, tensors["video_feats"], "video features")
