import json
from dataclasses import replace

import pytest
import torch

from stgt.config import DataConfig, ModelConfig, TrainConfig, VisionConfig
from stgt.data.annotations import load_captions
from stgt.data.commands import check, features, shapes
from stgt.data.features import FeatureStore
from stgt.data.video import VideoError


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "shapes"
    shapes(folder, train=6, test=2, size=32, frames=4)
    return folder


@pytest.fixture
def recipe(data):
    vision = VisionConfig(
        tower="vit", image_size=32, patch_size=16, width=32, layers=2, heads=2, open_blocks=0, dtype="float32"
    )
    return TrainConfig(
        model=ModelConfig(vision=vision),
        data=DataConfig(train=data / "train.json", videos=data / "videos", frames=3, workers=0, sampling="headtail"),
    )


def test_check_names_broken_videos_and_writes_the_rest(data, tmp_path, capsys):
    check(data / "train.json", data / "videos", jobs=1)
    entries = json.loads((data / "train.json").read_text())
    (data / "videos" / "broken.mp4").write_bytes(b"no video")
    bad = tmp_path / "bad.json"
    bad.write_text(json.dumps([*entries, {"video": "broken.mp4", "caption": ["a", "b"]}]))
    with pytest.raises(VideoError, match="bad.json names 1 broken videos; --out"):
        check(bad, data / "videos", jobs=1)
    assert f"{data / 'videos' / 'broken.mp4'}: not a video file" in capsys.readouterr().out
    check(bad, data / "videos", jobs=1, out=tmp_path / "good.json")
    assert load_captions(tmp_path / "good.json") == load_captions(data / "train.json")


def test_features_of_a_recipe_are_those_its_run_asks_for(recipe, tmp_path):
    from stgt.data.text import Tokenizer
    from stgt.models.stgt import STGT
    from stgt.training.randomness import seed_everything
    from stgt.training.run import require_features, training_data

    features(recipe, tmp_path / "features", views=2, batch_size=4, device="cpu")
    store = FeatureStore(tmp_path / "features")
    assert store.shape == (6, 2, 3, 1 + 4, 32)
    items = training_data(recipe, Tokenizer.train(["a small red square"], 60), store)
    seed_everything(recipe.seed)
    model = STGT(recipe.model)
    require_features(store, items, model)
    assert items[0]["tokens"].dtype == torch.bfloat16
    with pytest.raises(ValueError, match="frames is 3 in the cache and 4 in this run"):
        other = replace(recipe, data=replace(recipe.data, frames=4))
        require_features(store, training_data(other, items.tokenizer, store), model)


def test_a_tower_that_is_trained_cannot_be_cached(recipe, tmp_path):
    opened = replace(recipe.model, vision=replace(recipe.model.vision, open_blocks=-1))
    with pytest.raises(ValueError, match="vision.open_blocks is -1, expected 0"):
        features(replace(recipe, model=opened), tmp_path / "features")
    assert not any(tmp_path.iterdir())
