"""The recorded model: its configuration, its batch, and its expected losses and gradients."""

import torch

from stgt import losses
from stgt.config import GraphConfig, LossConfig, ModelConfig, QFormerConfig, VisionConfig
from stgt.weights.names import released_name

# The sample whose text or video was recorded as the negative of each sample.
NEXT = torch.tensor([1, 2, 0])


def recorded_config(meta, **graph):
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


def recorded_weights(tensors):
    """The weights under the released names."""
    return {key[6:]: value for key, value in tensors.items() if key.startswith("param.")}


def recorded_batch(tensors):
    # The record is (B, 3, T, 28, 28). Each of its pixels is repeated to 8 by 8.
    video = tensors["video_28"].transpose(1, 2).repeat_interleave(8, -1).repeat_interleave(8, -2)
    return {"video": video, "input_ids": tensors["input_ids"], "attention_mask": tensors["attention_mask"]}


def check_losses_and_gradients(alignment, model, batch, tensors, assert_near, monkeypatch):
    monkeypatch.setattr(losses, "hard_negatives", lambda logits, draw, offset, same: NEXT.to(logits.device))
    out = model(batch, LossConfig(alignment=alignment))
    stage = {"vtc": 1, "csal": 2}[alignment]  # of the paper's training
    assert_near(out[alignment], tensors["loss_" + alignment], alignment)
    assert_near(out["vtm"], tensors["loss_vtm"], "vtm")
    assert_near(out["vtg"], tensors["loss_vtg"], "vtg")
    assert_near(out["loss"], sum(tensors["loss_" + part] for part in (alignment, "vtm", "vtg")), "loss")
    out["loss"].backward()
    compared = 0
    for name, parameter in model.named_parameters():
        # CSAL was recorded without the tower's gradients.
        expected = tensors.get(f"grad_stage{stage}.{released_name(name)}")
        if expected is not None:
            assert_near(parameter.grad, expected, name, gradient=True)
            compared += 1
    assert compared == {1: 195, 2: 165}[stage]


def check_words_and_matching(model, embeds, tensors, assert_near):
    """The outputs of the Q-Former and its heads for the recorded texts and for video embeddings."""
    ids, mask = (tensors[key].to(embeds.device) for key in ("input_ids", "attention_mask"))
    assert_near(model.encode_text(ids, mask), tensors["text_feats"], "text features")
    assert_near(model.generate_logits(embeds, ids, mask), tensors["lm_logits"], "next-word logits")
    matching = [
        model.match(embeds, ids, mask),
        model.match(embeds[NEXT], ids, mask),
        model.match(embeds, ids[NEXT], mask[NEXT]),
    ]
    assert_near(torch.cat(matching), tensors["itm_logits"], "matching logits")
