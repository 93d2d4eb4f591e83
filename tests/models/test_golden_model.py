"""The whole model reads the released names and gives the recorded features, logits, losses and gradients."""

import pytest
import torch
from safetensors.torch import save_file

from stgt import losses
from stgt.config import GraphConfig, LossConfig, ModelConfig, QFormerConfig, VisionConfig
from stgt.models.checkpoint import load_released
from stgt.models.names import released_name
from stgt.models.stgt import STGT

NEXT = torch.tensor([1, 2, 0])


@pytest.fixture
def recorded(golden, tmp_path):
    """recorded(backend, **switches) -> model with the recorded weights, its batch, and everything recorded."""
    tensors, meta = golden("official_model_tiny")
    path = tmp_path / "released.safetensors"
    save_file({key[6:]: value for key, value in tensors.items() if key.startswith("param.")}, path)

    def load(backend=("reference", "cpu"), **switches):
        run, device = backend
        model = STGT(tiny_config(meta, backend=run, **switches)).eval()
        assert load_released(model, path) == []
        batch = {
            # Recorded as (B, 3, T, 28, 28): each pixel stands for 8 by 8.
            "video": tensors["video_28"].transpose(1, 2).repeat_interleave(8, -1).repeat_interleave(8, -2),
            "input_ids": tensors["input_ids"],
            "attention_mask": tensors["attention_mask"],
        }
        return model.to(device), {key: value.to(device) for key, value in batch.items()}, tensors

    return load


def tiny_config(meta, **graph):
    size = {key: int(float(value)) for key, value in meta.items()}
    vision = VisionConfig(
        tower="vit",
        width=size["width"],
        layers=size["depth"],
        heads=size["vheads"],
        mlp_ratio=6144 / 1408,
        open_blocks=-1,
        dtype="float32",
    )
    graph = GraphConfig(heads=size["gheads"], frames=size["T"], threshold=float(meta["threshold"]), **graph)
    qformer = QFormerConfig(
        hidden=size["hidden"],
        layers=size["qlayers"],
        heads=size["qheads"],
        intermediate=size["inter"],
        queries=size["nq"],
        vocab_size=size["vocab"],
        bos_token_id=size["bos_token_id"],
        embed_dim=size["emb"],
    )
    return ModelConfig(vision, graph, qformer)


@torch.no_grad()
def test_features_and_logits(recorded, backend, assert_near):
    model, batch, tensors = recorded(backend)
    ids, mask = batch["input_ids"], batch["attention_mask"]
    tokens = model.visual_tokens(batch["video"])
    assert_near(tokens, tensors["visual_tokens"], "visual tokens")
    video = model.encode_video(tokens=tokens)
    assert_near(video.embeds, tensors["video_embeds"], "video embeddings")
    assert_near(video.queries, tensors["video_feats"], "video features")
    text = model.encode_text(ids, mask)
    assert_near(text, tensors["text_feats"], "text features")
    assert_near(model.similarity(video.queries, text) / model.temp, tensors["sim_v2t"], "similarity")
    assert_near(model.similarity(video.queries, text).T / model.temp, tensors["sim_t2v"], "similarity")
    assert_near(model.generate_logits(video.embeds, ids, mask), tensors["lm_logits"], "next-word logits")
    matching = torch.cat(
        [
            model.match(video.embeds, ids, mask),
            model.match(video.embeds[NEXT], ids, mask),
            model.match(video.embeds, ids[NEXT], mask[NEXT]),
        ]
    )
    assert_near(matching, tensors["itm_logits"], "matching logits")


@pytest.mark.parametrize("stage", [1, 2])
def test_losses_and_gradients(stage, recorded, backend, assert_near, monkeypatch):
    check_losses_and_gradients(stage, recorded(backend), assert_near, monkeypatch)


@pytest.mark.parametrize("stage", [1, 2])
def test_dense_attention_gives_the_same(stage, recorded, assert_near, monkeypatch):
    check_losses_and_gradients(stage, recorded(attention="dense"), assert_near, monkeypatch)


def check_losses_and_gradients(stage, model_batch_tensors, assert_near, monkeypatch):
    model, batch, tensors = model_batch_tensors
    monkeypatch.setattr(losses, "hard_negatives", lambda logits, draw, offset: NEXT.to(logits.device))
    out = model(batch, LossConfig(stage=stage))
    contrast = "vtc" if stage == 1 else "csal"
    assert_near(out[contrast], tensors["loss_" + contrast], contrast)
    assert_near(out["vtm"], tensors["loss_vtm"], "vtm")
    assert_near(out["vtg"], tensors["loss_vtg"], "vtg")
    assert_near(out["loss"], sum(tensors["loss_" + part] for part in (contrast, "vtm", "vtg")), "loss")
    out["loss"].backward()
    compared = 0
    for name, parameter in model.named_parameters():
        # Stage 2 was recorded without the tower's gradients.
        expected = tensors.get(f"grad_stage{stage}.{released_name(name)}")
        if expected is not None:
            assert_near(parameter.grad, expected, name, gradient=True)
            compared += 1
    assert compared == {1: 195, 2: 165}[stage]


def test_the_same_video_as_in_the_release_needs_its_frames_in_order(recorded, assert_near):
    model, batch, tensors = recorded()
    with torch.no_grad():
        backwards = model.encode_video(batch["video"].flip(1)).queries
    with pytest.raises(AssertionError, match="largest error"):
        assert_near(backwards, tensors["video_feats"], "video features")
