import math

import pytest

from stgt.config import GraphConfig, LossConfig, ModelConfig, QFormerConfig, VisionConfig


def test_defaults_are_the_papers_sizes():
    config = ModelConfig()
    assert config.vision.sizes.grid == 16 and config.vision.sizes.width == 1408
    assert config.graph.layers == 1 and config.graph.frames == 8


@pytest.mark.parametrize(
    "kind, values",
    [
        (VisionConfig, dict(dtype="float16")),
        (VisionConfig, dict(image_size=225)),
        (VisionConfig, dict(width=1000, tower="vit", heads=3)),
        (VisionConfig, dict(width=1024)),
        (VisionConfig, dict(heads=12)),
        (VisionConfig, dict(patch_size=16)),
        (VisionConfig, dict(layers=41)),
        (VisionConfig, dict(mlp_ratio=4.0)),
        (VisionConfig, dict(image_size=224, tower="vit", patch_size=9)),
        (VisionConfig, dict(layers=0)),
        (VisionConfig, dict(open_blocks=40)),
        (VisionConfig, dict(open_blocks=-2)),
        (VisionConfig, dict(mlp_ratio=math.inf)),
        (VisionConfig, dict(tower="")),
        (GraphConfig, dict(kind="gnn")),
        (GraphConfig, dict(form="gated")),
        (GraphConfig, dict(threshold=math.nan)),
        (GraphConfig, dict(threshold=1.5)),
        (GraphConfig, dict(window=-1)),
        (GraphConfig, dict(dropout=1.0)),
        (GraphConfig, dict(drop_path=-0.1)),
        (GraphConfig, dict(scope="video")),
        (GraphConfig, dict(backend="fast")),
        (GraphConfig, dict(cls_repeats=0)),
        (QFormerConfig, dict(hidden=700)),
        (QFormerConfig, dict(bos_token_id=30523)),
        (QFormerConfig, dict(max_text_length=513)),
        (QFormerConfig, dict(max_text_length=1)),
        (QFormerConfig, dict(temperature=0.0)),
        (QFormerConfig, dict(queries=0)),
        (QFormerConfig, dict(rerank="none")),
        (LossConfig, dict(alignment="itc")),
        (LossConfig, dict(gamma=math.nan)),
        (LossConfig, dict(vtc_smoothing=1.0)),
        (LossConfig, dict(vtm_weight=-1.0)),
        (LossConfig, dict(alignment_weight=0.0, vtm_weight=0.0, vtg_weight=0.0)),
        (LossConfig, dict(csal_mask="none")),
    ],
    ids=str,
)
def test_an_error_names_the_field_the_value_and_the_expectation(kind, values):
    with pytest.raises(ValueError) as error:
        kind(**values)
    name, value = next(iter(values.items()))
    assert str(error.value).startswith(f"{kind.__name__}.{name} is {value!r}, expected ")


def test_parts_must_fit_each_other():
    with pytest.raises(ValueError, match="GraphConfig.heads is 5, expected a divisor of VisionConfig.width=1408"):
        ModelConfig(graph=GraphConfig(heads=5))
    with pytest.raises(ValueError, match="GraphConfig.heads is 8, expected .* at most 128 channels each"):
        ModelConfig(graph=GraphConfig(heads=8))
    ModelConfig(graph=GraphConfig(heads=8, attention="dense"))
    with pytest.raises(ValueError, match="VisionConfig.width is 18, expected a multiple of 4"):
        ModelConfig(vision=VisionConfig(tower="vit", width=18, heads=2), graph=GraphConfig(heads=2))
