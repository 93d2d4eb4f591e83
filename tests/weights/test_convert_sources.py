"""Weights of other implementations give the same outputs here as in those implementations."""

import json
from dataclasses import replace

import open_clip
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from timm.models.eva import Eva
from torch import nn
from transformers import Blip2Config, Blip2ForImageTextRetrieval, Blip2Model

from stgt.config import GraphConfig, ModelConfig, QFormerConfig, VisionConfig
from stgt.convert import convert_files
from stgt.models.vision import VisionTower

VIT = dict(tower="vit", image_size=28, patch_size=7, width=32, layers=2, heads=2, mlp_ratio=2.0, dtype="float32")
CONFIG = ModelConfig(VisionConfig(**VIT), GraphConfig(heads=2), QFormerConfig(heads=2))
# The parts that Hugging Face's BLIP-2 does not have.
FRESH = ["graph_cross_model.", "temp", "Qformer.cls."]


def close(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)


def randomise(model):
    """Set all tensors to random values, so that a tensor in the wrong place changes the output."""
    torch.manual_seed(0)
    for name, parameter in model.named_parameters():
        norm = "norm" in name.lower() or ".ln_" in name
        nn.init.normal_(parameter, mean=1.0 if norm and name.endswith("weight") else 0.0, std=0.1)
    return model.eval()


def blip2(kind, **switches):
    vision = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2)
    qformer = dict(vocab_size=30, hidden_size=24, num_hidden_layers=4, num_attention_heads=2, intermediate_size=48)
    qformer |= dict(max_position_embeddings=16, encoder_hidden_size=32)
    text = dict(model_type="opt", vocab_size=30, hidden_size=16, ffn_dim=32, num_hidden_layers=1)
    text |= dict(num_attention_heads=2, max_position_embeddings=16, word_embed_proj_dim=16)
    config = Blip2Config(
        vision_config=vision | dict(image_size=28, patch_size=7),
        qformer_config=qformer | switches,
        text_config=text,
        num_query_tokens=4,
        image_text_hidden_size=8,
    )
    return randomise(kind(config))


@torch.no_grad()
@pytest.mark.parametrize("pieces", [1, 2])
def test_a_hugging_face_retrieval_model_gives_the_same_outputs(pieces, tmp_path):
    theirs = blip2(Blip2ForImageTextRetrieval, use_qformer_text_input=True)
    theirs.save_pretrained(tmp_path, max_shard_size="1GB" if pieces == 1 else "200KB")
    assert len(list(tmp_path.glob("*.safetensors"))) == pieces
    ours = convert_files([tmp_path], CONFIG, fresh=FRESH).eval()
    assert ours.config.qformer == QFormerConfig(
        hidden=24, layers=4, heads=2, intermediate=48, queries=4, vocab_size=30, bos_token_id=29, max_positions=16,
        embed_dim=8, max_text_length=16,
    )  # fmt: skip

    images, ids = torch.randn(3, 3, 28, 28), torch.randint(1, 30, (3, 6))
    mask = torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 1, 0, 0, 0], [1, 1, 1, 1, 1, 0]])
    pair = dict(pixel_values=images, input_ids=ids, attention_mask=mask)
    expected = theirs(**pair, use_image_text_matching_head=False)
    embeds = ours.ln_vision(ours.visual_tokens(images[:, None])[:, 0])
    close(embeds, expected.vision_model_output.last_hidden_state)
    embeds = expected.vision_model_output.last_hidden_state  # the Q-Former's norms enlarge small differences
    queries = F.normalize(ours.vision_proj(ours.qformer.video(embeds)), dim=-1)
    close(queries, expected.image_embeds)
    close(ours.encode_text(ids, mask), expected.text_embeds)
    close(ours.similarity(queries, ours.encode_text(ids, mask)), expected.logits_per_image)
    expected = theirs(**pair, use_image_text_matching_head=True)
    close(ours.match(embeds, ids, mask), expected.logits_per_image)


@torch.no_grad()
def test_a_hugging_face_model_without_text_layers_needs_fresh_ones(tmp_path):
    """The language model is ignored. The error names the missing text layers of the Q-Former, which may be fresh."""
    theirs = blip2(Blip2Model)
    theirs.save_pretrained(tmp_path)
    with pytest.raises(ValueError) as error:
        convert_files([tmp_path], CONFIG, fresh=FRESH)
    for part in ("qformer.encoder.layer.3.intermediate.* (2)", "embeddings.* (2)", "vision_projection.* (2)"):
        assert part in str(error.value)
    assert "unexpected" not in str(error.value)
    words = ["qformer.encoder.layer.*.intermediate.", "qformer.encoder.layer.*.output."]
    heads = ["embeddings.", "vision_projection.", "text_projection.", "itm_head."]
    ours = convert_files([tmp_path], CONFIG, fresh=[*FRESH, *words, *heads]).eval()
    images = torch.randn(2, 3, 28, 28)
    embeds = ours.ln_vision(ours.visual_tokens(images[:, None])[:, 0])
    expected = theirs.get_image_features(images).last_hidden_state
    close(embeds, expected)
    close(ours.qformer.video(expected), theirs.get_qformer_features(images))


@pytest.mark.parametrize(
    "old, new, message",
    [
        ("qformer.layernorm.bias", None, "1 missing: qformer.layernorm.bias"),
        ("text_projection.bias", "text_projection.scale", "1 unexpected: text_projection.scale"),
        ("vision_model.embeddings.class_embedding", None, "1 missing: vision_model.embeddings.class_embedding"),
        ("itm_head.bias", "itm_bias", "1 unexpected: itm_bias"),
    ],
)
def test_hugging_face_s_names_are_all_accounted_for(old, new, message, tmp_path):
    state = blip2(Blip2ForImageTextRetrieval, use_qformer_text_input=True).state_dict()
    tensor = state.pop(old)
    torch.save(state | ({new: tensor} if new else {}), tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match=message):
        convert_files([tmp_path / "pytorch_model.bin"], CONFIG, fresh=FRESH)


@pytest.mark.parametrize(
    "part, change, message",
    [
        (
            "vision",
            {"heads": 4},
            r"config.json: vision_config.num_attention_heads is 2, but the model has 4; --model.vision",
        ),
        (
            "qformer",
            {"heads": 12},
            r"config.json: qformer_config.num_attention_heads is 2, but the model has 12; --model.q",
        ),
    ],
)
def test_numbers_of_heads_that_config_json_contradicts_are_refused(part, change, message, tmp_path):
    """No tensor shows them. With others, the model would give wrong numbers."""
    blip2(Blip2ForImageTextRetrieval, use_qformer_text_input=True).save_pretrained(tmp_path)
    config = replace(CONFIG, **{part: replace(getattr(CONFIG, part), **change)})
    with pytest.raises(ValueError, match=message):
        convert_files([tmp_path], config, fresh=FRESH)


@pytest.mark.parametrize("part, name, value", [("qformer", "hidden_act", "relu"), ("vision", "layer_norm_eps", 1e-5)])
def test_a_network_that_computes_otherwise_is_refused(part, name, value, tmp_path):
    blip2(Blip2ForImageTextRetrieval, use_qformer_text_input=True).save_pretrained(tmp_path)
    settings = json.loads((tmp_path / "config.json").read_text())
    settings[f"{part}_config"][name] = value
    (tmp_path / "config.json").write_text(json.dumps(settings))
    with pytest.raises(ValueError, match=rf"config.json: {part}_config.{name} is \"?{value}\"?, but the model has"):
        convert_files([tmp_path], CONFIG, fresh=FRESH)


def tower_tokens(path, **config):
    config = VIT | dict(image_size=28, patch_size=7) | config
    return VisionTower(VisionConfig(**config, pretrained=str(path)))


@torch.no_grad()
@pytest.mark.parametrize("prefix", ["", "visual.", "visual.trunk.", "visual_encoder."])
def test_eva_clip(prefix, tmp_path):
    """timm's Eva with one block more than is run, with its norm and head, in half precision as in eva_vit_g.pth."""
    theirs = randomise(
        Eva(img_size=28, patch_size=7, num_classes=5, global_pool="token", embed_dim=32, depth=3, num_heads=2,
            mlp_ratio=2.0)
    )  # fmt: skip
    theirs.half().float()
    state = {prefix + name: tensor.half() for name, tensor in theirs.state_dict().items()}
    if prefix.startswith("visual."):
        state |= {"text.transformer.weight": torch.zeros(1), "logit_scale": torch.zeros(())}
    torch.save(state, tmp_path / "tower.pth")
    images = torch.randn(2, 3, 28, 28)
    expected = theirs.forward_intermediates(
        images, indices=[1], norm=False, intermediates_only=True, output_fmt="NLC", return_prefix_tokens=True
    )
    patches, cls = expected[0]
    close(tower_tokens(tmp_path / "tower.pth")(images[None])[0], torch.cat([cls, patches], 1))

    torch.save(state | {prefix + "blocks.0.attn.rope": torch.zeros(1)}, tmp_path / "more.pth")
    with pytest.raises(ValueError, match=rf"1 unexpected: {prefix}blocks.0.attn.rope"):
        tower_tokens(tmp_path / "more.pth")
    with pytest.raises(ValueError, match=rf"1 mis-shaped: {prefix}pos_embed: \(1, 17, 32\) in the file"):
        tower_tokens(tmp_path / "tower.pth", image_size=42)


def test_the_paper_s_tower_has_the_names_of_eva_vit_g():
    with torch.device("meta"):
        names = set(VisionTower(VisionConfig()).tower.state_dict())
    block = ["attn.q_bias", "attn.v_bias", "attn.qkv.weight"]
    parts = ("norm1", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")
    block += [f"{part}.{tensor}" for part in parts for tensor in ("weight", "bias")]
    expected = {"cls_token", "pos_embed", "patch_embed.proj.weight", "patch_embed.proj.bias"}
    assert names == expected | {f"blocks.{n}.{name}" for n in range(39) for name in block}


@pytest.fixture
def clip(tmp_path, monkeypatch):
    """A tiny model with open_clip's own architecture, registered under a name."""
    vision = dict(image_size=28, patch_size=7, width=32, layers=3, head_width=16, mlp_ratio=2.0)
    text = dict(context_length=8, vocab_size=20, width=16, heads=2, layers=1)
    (tmp_path / "tiny-clip.json").write_text(json.dumps(dict(embed_dim=8, vision_cfg=vision, text_cfg=text)))
    monkeypatch.setattr(open_clip.factory, "_MODEL_CONFIG_PATHS", [*open_clip.factory._MODEL_CONFIG_PATHS])
    monkeypatch.setattr(open_clip.factory, "_MODEL_CONFIGS", {**open_clip.factory._MODEL_CONFIGS})
    open_clip.add_model_config(tmp_path / "tiny-clip.json")
    return randomise(open_clip.create_model("tiny-clip"))


@torch.no_grad()
@pytest.mark.parametrize("part", ["whole", "tower"])
def test_open_clip(part, clip, tmp_path):
    """Whole models, as training saves them and wrapped in DDP, and their vision part alone."""
    if part == "whole":
        state = {"epoch": 3, "state_dict": {"module." + name: value for name, value in clip.state_dict().items()}}
    else:
        state = clip.visual.state_dict()
    torch.save(state, tmp_path / "open_clip.pt")
    images = torch.randn(2, 3, 28, 28)
    expected = clip.visual.forward_intermediates(
        images, indices=[1], intermediates_only=True, output_fmt="NLC", output_extra_tokens=True
    )
    expected = torch.cat([expected["image_intermediates_prefix"][0], expected["image_intermediates"][0]], 1)
    close(tower_tokens(tmp_path / "open_clip.pt", tower="tiny-clip")(images[None])[0], expected)


@torch.no_grad()
def test_an_open_clip_tower_beside_hugging_face_s_q_former(clip, tmp_path):
    theirs = blip2(Blip2ForImageTextRetrieval, use_qformer_text_input=True)
    theirs.save_pretrained(tmp_path)
    torch.save(clip.state_dict(), tmp_path / "open_clip.pt")
    config = ModelConfig(VisionConfig(**VIT | {"tower": "tiny-clip"}), CONFIG.graph, CONFIG.qformer)
    files = [tmp_path / "model.safetensors", tmp_path / "open_clip.pt"]
    ours = convert_files(files, config, fresh=FRESH, drop=["vision_model.e"]).eval()
    assert torch.equal(ours.vision.tower.conv1.weight, clip.visual.conv1.weight)
    assert torch.equal(ours.ln_vision.weight, theirs.vision_model.post_layernorm.weight)
    ours.save_pretrained(tmp_path / "folder")
    assert "vision.tower.conv1.weight" in load_file(tmp_path / "folder/model.safetensors")
