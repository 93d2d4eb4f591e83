"""The name of a vision tower decides its sizes."""

import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from helpers.commands import run_cli

from stgt import open_clip_towers
from stgt.config import ModelConfig, TrainConfig, VisionConfig, from_dict, to_dict
from stgt.models.stgt import STGT
from stgt.recipes import pretrain_stage1
from stgt.towers import KNOWN, TowerSizes
from stgt.weights.tower import tower_hash


def test_the_released_tower_is_as_open_clip_has_it_and_runs_39_of_40_blocks():
    assert open_clip_towers.open_clip_sizes("EVA01-g-14") == KNOWN["EVA01-g-14"]
    assert KNOWN["EVA01-g-14"].layers == 40 and VisionConfig().sizes == replace(KNOWN["EVA01-g-14"], layers=39)


# open_clip's own transformer, timm's, one whose frames are no multiple of its patches, and two with convolutions first.
@pytest.mark.parametrize(
    ("tower", "sizes"),
    [
        ("ViT-B-16", TowerSizes(224, 16, 768, 12, 12, 4.0)),
        ("ViT-H-14-378", TowerSizes(378, 14, 1280, 32, 16, 4.0)),
        ("EVA02-B-16", TowerSizes(224, 16, 768, 12, 12, 8 / 3)),
        ("ViT-SO400M-14-SigLIP-384", TowerSizes(384, 14, 1152, 27, 16, 4304 / 1152)),
        ("MobileCLIP-B", TowerSizes(224, 16, 768, 12, 12, 4.0)),
        ("ViTamin-S", TowerSizes(224, 16, 384, 14, 6, 2.0)),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_name_is_enough(tower, sizes):
    assert VisionConfig(tower).sizes == sizes
    saved = to_dict(ModelConfig(VisionConfig(tower)))["vision"]
    assert VisionConfig(**saved).sizes == sizes and None not in (saved["width"], saved["mlp_ratio"])
    with torch.device("meta"):
        blocks = STGT(ModelConfig(VisionConfig(tower, layers=2))).vision.tower
    assert getattr(blocks, "embed_dim", None) == sizes.width or blocks.conv1.out_channels == sizes.width


def test_image_size_and_layers_may_be_chosen():
    sizes = VisionConfig("ViT-B-16", image_size=96, layers=3).sizes
    assert (sizes.image_size, sizes.grid, sizes.layers, sizes.width) == (96, 6, 3, 768)
    with pytest.raises(ValueError, match="VisionConfig.image_size is 100, expected a multiple of patch_size=16"):
        VisionConfig("ViT-B-16", image_size=100)


def test_a_tower_of_an_open_clip_model_that_somebody_adds(tmp_path):
    (tmp_path / "wide-frames.json").write_text(
        '{"embed_dim": 8, "vision_cfg": {"image_size": [32, 64], "layers": 2, "width": 32, "patch_size": 16},'
        ' "text_cfg": {}}'
    )
    open_clip_towers.open_clip.add_model_config(tmp_path / "wide-frames.json")
    with pytest.raises(ValueError, match="tower is 'wide-frames', expected .* a transformer on a square grid of pat"):
        VisionConfig("wide-frames")


@pytest.mark.parametrize("tower", ["RN50", "convnext_base", "swin_base_patch4_window7_224", "MobileCLIP-S1"])
def test_a_tower_without_a_grid_of_patches_is_refused(tower):
    with pytest.raises(
        ValueError, match=f"VisionConfig.tower is '{tower}', expected .* a transformer on a square grid"
    ):
        VisionConfig(tower)


def test_a_name_that_open_clip_does_not_know_is_refused():
    with pytest.raises(ValueError, match="VisionConfig.tower is 'no-such-model', expected 'vit' or one of open_clip"):
        VisionConfig("no-such-model")


def test_a_recipe_takes_another_tower_by_its_name_alone(monkeypatch, capsys):
    started = []
    monkeypatch.setattr("stgt.training.run.train", started.append)
    assert run_cli(monkeypatch, "train", "pretrain_stage1", "--model.vision.tower", "ViT-B-16") == 0
    base = pretrain_stage1()
    vision = replace(base.model.vision, tower="ViT-B-16")
    assert started == [replace(base, model=replace(base.model, vision=vision))]
    assert started[0].model.vision.sizes.width == 768
    words = ["--model.vision.tower", "ViT-B-16", "--model.vision.width", "1024"]
    assert run_cli(monkeypatch, "train", "pretrain_stage1", *words) == 2
    error = " ".join(capsys.readouterr().err.split())
    assert "VisionConfig.width is 1024, expected 768, which the tower 'ViT-B-16' has" in error


def test_configurations_are_imported_and_read_without_open_clip():
    saved = to_dict(TrainConfig(model=ModelConfig(VisionConfig("ViT-B-16"))))
    assert from_dict(TrainConfig, saved).model.vision.sizes.heads == 12
    code = f"""
import sys
from stgt.config import TrainConfig, from_dict
from stgt.recipes import RECIPES
sizes = [recipe().model.vision.sizes for recipe in RECIPES.values()]
assert from_dict(TrainConfig, {saved}).model.vision.sizes.width == 768
assert not {{"torch", "timm", "open_clip"}} & sys.modules.keys()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr


def test_hashes_of_towers_are_those_of_version_0_1_0():
    """Checkpoints and caches of that version hold them, for configurations with its heads and its MLP ratio."""
    weights = {"blocks.0.attn.qkv.weight": torch.arange(12.0).view(3, 4)}
    small = VisionConfig("vit", image_size=32, patch_size=8, width=32, layers=3, heads=2)
    configs = (VisionConfig(), VisionConfig("ViT-B-16", layers=11), small)
    assert [tower_hash(weights, config)[:16] for config in configs] == [
        "89598924f08440ba",
        "95fe94580104b5ae",
        "98656a2597cf6b1a",
    ]
