"""Odd JSON is refused, and so are configurations with odd values."""

import json

import pytest

from stgt.config import LossConfig, ModelConfig, OptimConfig, TrainConfig, VisionConfig, from_dict, to_dict
from stgt.data.features import FeatureKey
from stgt.data.shapes import render_shapes
from stgt.structure import DEEPEST, field, parse_json, read_json


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[{"a": NaN}]', r"x.json: found NaN at \[0\].a, expected a finite number"),
        ('{"a": [1, -Infinity]}', r"x.json: found -Infinity at a\[1\], expected a finite number"),
        ("1e999", 'x.json: found "1e999", expected a number that fits 64 bits'),
        ('{"a": ' + "9" * 5000 + "}", "x.json: found a number of 5000 digits at a, expected fewer than 20"),
        ('{"a": {"b": 1, "b": 2}}', 'x.json: found an object that has the key "b" twice at a, expected each key once'),
        (r'[0, {"a": "\ud800"}]', r"x.json: found half of a surrogate pair .* at \[1\].a, expected text"),
        (r'{"\udc00": 1}', "x.json: found half of a surrogate pair .*, expected text"),
        ("[" * 100_000, "x.json: lists or objects are nested too deeply, expected at most 100 levels"),
        ("[" * 101 + "]" * 101, "x.json: lists or objects are nested too deeply, expected at most 100 levels"),
        ('{"a":' * 150 + "1" + "}" * 150, "nested too deeply"),
        ("{", "x.json: not JSON"),
        ("", "x.json: not JSON"),
        ("[]", r"x.json: holds \[\], expected an object"),
    ],
    ids=lambda text: text[:20],
)
def test_odd_json_is_refused_with_its_place(text, message):
    with pytest.raises(ValueError, match=message) as error:
        parse_json(text, "x.json", dict)
    assert len(str(error.value)) < 300


def test_ordinary_json_is_read(tmp_path):
    value = {"a": [1, -2.5, True, None, "😀 é"], "b": {"c": []}}
    (tmp_path / "x.json").write_text(json.dumps(value), "utf-8-sig")
    assert read_json(tmp_path / "x.json") == value
    assert parse_json("[" * DEEPEST + "]" * DEEPEST, "x") is not None


@pytest.mark.parametrize("values", [{}, {"n": None}, {"n": True}, {"n": "8"}, {"n": 8.0}])
def test_a_field_has_to_exist_and_have_its_type(values):
    with pytest.raises(ValueError, match="x.json: .*'n'.*, expected a whole number"):
        field(values, "n", int, "x.json")
    assert field({"n": 8}, "n", int, "x.json") == 8
    assert field({"n": 8}, "n", float, "x.json") == 8


@pytest.mark.parametrize(
    ("cls", "values", "message"),
    [
        (VisionConfig, {"layers": "8"}, "VisionConfig.layers is '8', expected a whole number"),
        (VisionConfig, {"layers": True}, "VisionConfig.layers is True, expected a whole number"),
        (VisionConfig, {"layers": 8.0}, "VisionConfig.layers is 8.0, expected a whole number"),
        (VisionConfig, {"layers": 10**9}, "VisionConfig.layers is 1000000000, expected at least 1 and at most 1000"),
        (VisionConfig, {"pretrained": 3}, "VisionConfig.pretrained is 3, expected a text or None"),
        (VisionConfig, {"mlp_ratio": [4]}, r"VisionConfig.mlp_ratio is \(4,\), expected a number"),
        (VisionConfig, {"dtype": None}, "VisionConfig.dtype is None, expected one of 'bfloat16', 'float32'"),
        (LossConfig, {"alignment": True}, "LossConfig.alignment is True, expected one of 'vtc', 'csal'"),
        (LossConfig, {"detach_target": 1}, "LossConfig.detach_target is 1, expected True or False"),
        (OptimConfig, {"betas": [0.9]}, r"OptimConfig.betas is \(0.9,\), expected a list of 2: a number, a number"),
        (OptimConfig, {"betas": [0.9, "1"]}, "OptimConfig.betas is .*, expected a list of 2"),
        (ModelConfig, {"vision": 3}, "ModelConfig.vision is 3, expected the fields of VisionConfig"),
        (ModelConfig, {"vision": {"layers": "8"}}, "VisionConfig.layers is '8'"),
        (
            ModelConfig,
            {"vision": {"tower": "vit", "width": 65536}, "graph": {"heads": 512}},
            r"expected at most 1e\+11 weights",
        ),
        (ModelConfig, {"graph": {"frames": 10**12}}, "GraphConfig.frames is 1000000000000, expected at least 1 and at"),
        (ModelConfig, [1], r"ModelConfig is \[1\], expected an object with its fields"),
        (TrainConfig, {"out": 3}, "TrainConfig.out is 3, expected a path"),
        (TrainConfig, {"out": "a\0b"}, "TrainConfig.out is .*, expected a path"),
        (TrainConfig, {"seed": -1}, "TrainConfig.seed is -1, expected at least 0"),
        (TrainConfig, {"depth": 3}, "TrainConfig has no field depth"),
        (
            FeatureKey,
            {"tower": "ab", "seed": 0, "views": 1},
            "FeatureKey needs the field decoder, frames, sampling",
        ),
    ],
    ids=str,
)
def test_wrong_types_and_absurd_sizes_of_a_configuration_are_refused(cls, values, message):
    with pytest.raises(ValueError, match=message):
        from_dict(cls, values)


def test_a_configuration_survives_json():
    config = TrainConfig(model=ModelConfig(), loss=LossConfig("csal"), vtc_epochs=3)
    assert to_dict(from_dict(TrainConfig, json.loads(json.dumps(to_dict(config))))) == to_dict(config)


@pytest.mark.parametrize(
    "setting", [{"frames": 10**12}, {"size": 10**6}, {"train": 10**9}, {"test": 20_001}, {"seed": -1}]
)
def test_absurd_sizes_of_simulated_clips_are_refused_before_anything_is_drawn(setting, tmp_path):
    name, value = next(iter(setting.items()))
    with pytest.raises(ValueError, match=f"{name} is {value}, expected at least .* and at most"):
        render_shapes(tmp_path / "clips", **{"train": 1, "test": 1} | setting)
    assert not (tmp_path / "clips").exists()
