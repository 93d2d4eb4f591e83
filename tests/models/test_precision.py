"""A model refuses to convert its weights from float32. Half precision comes from autocast."""

import pytest
import torch
from helpers.tiny import tiny_batch, tiny_config, tiny_model
from torch import nn

from stgt.config import LanguageConfig, LossConfig
from stgt.models.vqa import VideoQA

CONVERSIONS = {
    "half": lambda module: module.half(),
    "bfloat16": lambda module: module.bfloat16(),
    "double": lambda module: module.double(),
    "to dtype": lambda module: module.to(torch.bfloat16),
    "to device and dtype": lambda module: module.to("cpu", torch.float16),
    "to like": lambda module: module.to(torch.zeros(1, dtype=torch.float16)),
    "type": lambda module: module.type(torch.float16),
    "inside another module": lambda module: nn.Sequential(module).half(),
}


def video_qa():
    config = tiny_config(vision={"dtype": "bfloat16"})
    config.language = LanguageConfig(model="opt", hidden=16, heads=2, vocab_size=30, dtype="bfloat16")
    return VideoQA(config)


PARTS = {
    "STGT": lambda: tiny_model(vision={"dtype": "bfloat16"}),
    "VideoQA": video_qa,
    "VisionTower": lambda: tiny_model(vision={"dtype": "bfloat16"}).vision,
    "GraphTransformer": lambda: tiny_model().graph,
    "QFormer": lambda: tiny_model().qformer,
}


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("conversion", CONVERSIONS)
def test_weights_are_not_converted(part, conversion):
    module = PARTS[part]()
    before = {name: (tensor.dtype, tensor.clone()) for name, tensor in module.state_dict().items()}
    message = rf"weights of {part} cannot become torch.\w+: keep float32 and use autocast, as in `with torch.autocast"
    with pytest.raises(ValueError, match=message) as error:
        CONVERSIONS[conversion](module)
    assert "\n" not in str(error.value)
    for name, tensor in module.state_dict().items():
        assert tensor.dtype == before[name][0] and torch.equal(tensor, before[name][1])


@pytest.mark.parametrize("part", PARTS)
def test_modules_still_move_and_stay_float32(part):
    module = PARTS[part]()
    assert module.to("cpu") is module and module.to("cpu", torch.float32) is module and module.cpu() is module
    assert module.to("meta") is module and all(parameter.is_meta for parameter in module.parameters())
    assert module.to_empty(device="cpu") is module


def test_a_frozen_tower_of_bfloat16_may_be_widened():
    model, batch = tiny_model(vision={"dtype": "bfloat16"}).eval(), tiny_batch()
    with torch.no_grad():
        before = model.encode_video(batch["video"]).queries
        wide = model.float().encode_video(batch["video"]).queries
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())
    assert torch.equal(before, wide)
    assert model(batch, LossConfig())["loss"].isfinite()
