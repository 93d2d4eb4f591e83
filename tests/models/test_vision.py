import copy

import open_clip
import pytest
import torch
from safetensors.torch import save_file

from stgt.config import VisionConfig
from stgt.models.vision import VisionTower
from stgt_kernels.testing import assert_close

SMALL = dict(tower="vit", image_size=32, patch_size=8, width=32, layers=3, heads=2)


def tower(**switches):
    return VisionTower(VisionConfig(**SMALL | switches))


def computed_in(dtype, model, video):
    """The tokens of a model whose weights and whose computation have one dtype."""
    model = copy.deepcopy(model)
    model.tower.to(dtype)
    with torch.no_grad():
        return model._tokens(video.flatten(0, 1).to(dtype)).unflatten(0, video.shape[:2])


@pytest.mark.parametrize("frames", [1, 3])
def test_tokens_of_any_number_of_frames(frames):
    model = tower()
    video = torch.randn(2, frames, 3, 32, 32)
    tokens = model(video)
    assert tokens.shape == (2, frames, 17, 32) and tokens.dtype == torch.float32
    alone = model(video[1:, -1:])
    assert_close(tokens[1, -1], alone[0, 0], computed_in(torch.float64, model, video)[1, -1], dtype=torch.bfloat16)


# open_clip's own ViT, one with attention pooling, and timm's: with rotary positions, without [CLS], with a stem.
TOWERS = ["ViT-B-32", "coca_ViT-B-32", "PE-Core-T-16-384", "EVA02-B-16", "ViT-B-16-SigLIP", "MobileCLIP-B"]


@pytest.mark.parametrize(
    "name, size, layers", [("ViT-B-32", 96, 1), ("PE-Core-T-16-384", None, 2), *((name, None, 1) for name in TOWERS)]
)
def test_open_clip_towers(name, size, layers):
    model = VisionTower(VisionConfig(name, image_size=size, layers=layers))
    sizes = model.config.sizes
    tokens = model(torch.randn(1, 2, 3, sizes.image_size, sizes.image_size))
    assert tokens.shape == (1, 2, 1 + (sizes.image_size // sizes.patch_size) ** 2, sizes.width)
    assert tokens.isfinite().all()


def test_stops_after_its_layers_and_takes_no_final_norm():
    torch.manual_seed(0)
    visual = open_clip.create_model("ViT-B-32", pretrained_text=False).visual
    model = VisionTower(VisionConfig("ViT-B-32", layers=2, dtype="float32"))
    model.tower.load_state_dict({k: v for k, v in visual.state_dict().items() if k in model.tower.state_dict()})
    images = torch.randn(2, 3, 224, 224)
    with torch.no_grad():
        tokens = model(images[None])[0]
        expected = visual.forward_intermediates(images, indices=[1], output_fmt="NLC", output_extra_tokens=True)
    torch.testing.assert_close(tokens[:, 1:], expected["image_intermediates"][0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(tokens[:, :1], expected["image_intermediates_prefix"][0], rtol=1e-4, atol=1e-5)


def test_a_tower_without_cls_gets_the_mean_of_its_patches():
    model = VisionTower(VisionConfig("vit_medium_patch16_gap_256", layers=1, dtype="float32"))
    cls, patches = model(torch.randn(1, 1, 3, 256, 256)).split([1, 256], 2)
    rounding = 256 * 2**-24 * patches.abs().max().item()  # of a sum of 256 numbers, at most, in any order
    torch.testing.assert_close(cls[:, :, 0], patches.mean(2), rtol=0, atol=rounding)


def test_frozen_tower_passes_no_gradients_and_stays_in_evaluation():
    model = tower().train()
    assert not any(p.requires_grad for p in model.parameters())
    assert not any(module.training for module in model.tower.modules())
    assert not model(torch.randn(1, 1, 3, 32, 32, requires_grad=True)).requires_grad


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_last_blocks_are_trained(dtype):
    model = tower(open_blocks=1, dtype=dtype).train()
    model(torch.randn(1, 2, 3, 32, 32)).square().sum().backward()
    for name, parameter in model.tower.named_parameters():
        opened = name.startswith("blocks.2.")
        assert parameter.requires_grad == opened
        assert (parameter.grad is not None and bool(parameter.grad.any())) == opened, name
        assert parameter.dtype == torch.float32 or not opened
    assert model.tower.blocks[2].training and not model.tower.blocks[1].training


def test_a_fully_open_tower_is_trained():
    model = tower(open_blocks=-1)
    model(torch.randn(1, 2, 3, 32, 32)).square().sum().backward()
    assert all(p.grad is not None for p in model.parameters())


def test_bfloat16_stores_matrices_in_half_and_stays_close():
    torch.manual_seed(0)
    exact = tower(dtype="float32")
    half = tower()
    half.load_state_dict(exact.state_dict())
    assert half.tower.blocks[0].mlp.fc1.weight.dtype == torch.bfloat16
    assert half.tower.blocks[0].norm1.weight.dtype == torch.float32
    video = torch.randn(1, 2, 3, 32, 32)
    plain, wide = (computed_in(dtype, exact, video) for dtype in (torch.bfloat16, torch.float64))
    assert_close(half(video), plain, wide, dtype=torch.bfloat16)
    assert not torch.equal(half(video), exact(video))


def test_float32_is_kept_under_autocast():
    model, video = tower(dtype="float32"), torch.randn(1, 1, 3, 32, 32)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(model(video), model(video))
        inside = model(video)
    assert torch.equal(inside, model(video))


@pytest.mark.parametrize("prefix", ["", "visual_encoder.", "visual.trunk.", "visual."])
def test_weights_from_a_file(prefix, tmp_path):
    path = str(tmp_path / "tower.safetensors")
    deep = tower(layers=4, dtype="float32")
    state = {prefix + name: tensor for name, tensor in deep.tower.state_dict().items()}
    if prefix.startswith("visual."):
        state["text.positional_embedding"] = torch.zeros(3)
    save_file(state, path)
    loaded = tower(pretrained=path, dtype="float32")
    for name, tensor in loaded.tower.state_dict().items():
        assert torch.equal(tensor, deep.tower.state_dict()[name])


def test_a_file_that_does_not_fit(tmp_path):
    path = str(tmp_path / "tower.safetensors")
    state = tower(layers=2).tower.state_dict()
    save_file(state | {"pos_embed": torch.zeros(1, 5, 32)}, path)
    with pytest.raises(ValueError, match=r"blocks\.2\.(.|\n)*1 mis-shaped: pos_embed: \(1, 5, 32\) in the file"):
        tower(pretrained=path)
    with pytest.raises(FileNotFoundError, match="nothing.pth"):
        tower(pretrained=str(tmp_path / "nothing.pth"))
    with pytest.raises(ValueError, match="pretrained is 'laion'.*expected a file"):
        tower(pretrained="laion")


COMPLETE = dict(tower="ViT-B-32", image_size=224, patch_size=32, width=768, layers=12, heads=12, mlp_ratio=4.0)


@pytest.mark.parametrize(
    "size, message",
    [
        (dict(patch_size=16), "VisionConfig.patch_size is 16, expected 32, which the tower 'ViT-B-32' has"),
        (dict(width=384), "VisionConfig.width is 384, expected 768, which"),
        (dict(heads=8), "VisionConfig.heads is 8, expected 12, which"),
        (dict(mlp_ratio=2.0), "VisionConfig.mlp_ratio is 2.0, expected 4.0, which"),
        (dict(layers=13), "VisionConfig.layers is 13, expected at most the 12 layers of the tower 'ViT-B-32'"),
    ],
)
def test_a_tower_that_is_not_as_the_config_says(size, message):
    VisionConfig(**COMPLETE)
    with torch.device("meta"), pytest.raises(ValueError, match=message):
        VisionTower(VisionConfig(**COMPLETE | size))
    with pytest.raises(ValueError, match=message):
        VisionConfig("ViT-B-32", **size)


@pytest.mark.parametrize(
    "shape, dtype", [((1, 1, 3, 32, 16), "float32"), ((1, 3, 32, 32), "float32"), ((1, 1, 3, 32, 32), "uint8")]
)
def test_frames_of_another_size_or_kind(shape, dtype):
    video = torch.zeros(shape, dtype=getattr(torch, dtype))
    with pytest.raises(ValueError, match=r"video is .*expected floating point \(B, T, 3, 32, 32\)"):
        tower()(video)
