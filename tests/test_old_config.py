"""A configuration that version 0.1.0 wrote means the same today."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from stgt.config import LossConfig, ModelConfig, TrainConfig, VisionConfig, from_dict, to_dict
from stgt.recipes import pretrain_stage1, read_recipe

# `to_dict` of version 0.1.0 wrote it for pretrain_stage1 with --csal-from 8.
RECORDED = Path(__file__).parent / "assets" / "config_0.1.0.json"


def test_a_recorded_configuration_is_read():
    expected = replace(pretrain_stage1(), loss=LossConfig(alignment="csal"), vtc_epochs=8)
    assert to_dict(read_recipe(RECORDED)) == to_dict(expected)


def test_a_translated_configuration_is_saved_with_the_present_fields():
    config = read_recipe(RECORDED)
    assert to_dict(from_dict(TrainConfig, json.loads(json.dumps(to_dict(config))))) == to_dict(config)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (dict(csal_from=None), dict()),
        (dict(csal_from=0), dict(loss=LossConfig(alignment="csal"))),
        (dict(csal_from=None, loss={"stage": 2}), dict(loss=LossConfig(alignment="csal"))),
        (
            dict(csal_from=None, loss={"stage": 2, "vtc": 0.5, "vtm": 0.0, "vtg": 2.0}),
            dict(loss=LossConfig("csal", alignment_weight=0.5, vtm_weight=0.0, vtg_weight=2.0)),
        ),
        (dict(csal_from=3, loss={"stage": 2}), dict(loss=LossConfig(alignment="csal"), vtc_epochs=3)),
    ],
    ids=str,
)
def test_stages_and_weights_are_translated(changes, expected):
    values = json.loads(RECORDED.read_text()) | changes
    assert to_dict(from_dict(TrainConfig, values)) == to_dict(replace(pretrain_stage1(), **expected))


@pytest.mark.parametrize("name", ["EVA01-g-14", "ViT-B-16"])
def test_the_heads_that_open_clip_s_towers_did_not_heed_are_left_out(name):
    """Version 0.1.0 saved 16 heads and an MLP ratio of 4 for every tower. Neither of these has both."""
    run = json.loads(RECORDED.read_text())
    here = VisionConfig(name, layers=11)
    vision = run["model"]["vision"] | dict(tower=name, patch_size=here.sizes.patch_size, width=here.sizes.width)
    model = run["model"] | {"vision": vision | dict(layers=11, pretrained=None)}
    assert (vision["heads"], vision["mlp_ratio"]) == (16, 4.0)
    assert from_dict(ModelConfig, model).vision.sizes == here.sizes
    assert from_dict(TrainConfig, run | {"model": model}).model.vision.sizes == here.sizes


def test_the_sizes_of_a_vit_are_kept():
    run = json.loads(RECORDED.read_text())
    vision = run["model"]["vision"] | dict(tower="vit", heads=8, width=1408)
    sizes = from_dict(ModelConfig, run["model"] | {"vision": vision}).vision.sizes
    assert (sizes.heads, sizes.mlp_ratio, sizes.layers) == (8, 4.0, 39)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"loss": {"stage": 3}}, "LossConfig.alignment is 3, expected one of 'vtc', 'csal'"),
        ({"loss": {"stage": [1]}}, "LossConfig.alignment is .*, expected one of 'vtc', 'csal'"),
        ({"loss": [], "csal_from": 1}, "TrainConfig.loss is .*, expected the fields of LossConfig"),
        ({"csal_from": "1"}, "TrainConfig.vtc_epochs is '1', expected a whole number"),
        ({"csal_from": -1}, "TrainConfig.vtc_epochs is -1, expected at least 0"),
        ({"vtc_epochs": 2}, "TrainConfig.vtc_epochs is 2, expected 0, since loss.alignment='vtc'"),
    ],
    ids=str,
)
def test_values_that_make_no_sense_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        from_dict(TrainConfig, values)
