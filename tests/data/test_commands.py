import json
import shutil
from dataclasses import replace

import pytest
import torch

from stgt.cli.data import check, features, shapes
from stgt.config import DataConfig, ModelConfig, TrainConfig, VisionConfig
from stgt.data.annotations import load_videos
from stgt.data.check import check_settings
from stgt.data.features import FeatureStore
from stgt.data.text import Tokenizer
from stgt.tasks import RETRIEVAL


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


@pytest.fixture
def some_bad(data, tmp_path):
    """The training captions, and some of videos that cannot be read."""
    videos = tmp_path / "videos"
    shutil.copytree(data / "videos", videos)
    for name in ("broken.mp4", "other.mp4"):
        (videos / name).write_bytes(b"no video")
    bad = [{"video": name, "caption": ["a", "b"]} for name in ("broken.mp4", "other.mp4", "gone.mp4")]
    path = tmp_path / "some.json"
    path.write_text(json.dumps([*bad, *json.loads((data / "train.json").read_text())]))
    return path, videos


def test_check_lists_broken_videos_and_training_leaves_them_out(some_bad, recipe, capsys, caplog):
    annotation, videos = some_bad
    check(annotation, videos, jobs=2)
    bad_list = annotation.with_suffix(".bad.json")
    found = json.loads(bad_list.read_text())
    assert list(found) == ["broken.mp4", "other.mp4", "gone.mp4"] and found["gone.mp4"] == "no such file"
    report = json.loads(annotation.with_suffix(".report.json").read_text())
    assert list(report) == load_videos(annotation) and report[list(report)[-1]]["facts"]["codec"] == "h264"
    printed = capsys.readouterr().out
    assert f"pyav reads 3 of 9 videos wrongly; {annotation.with_suffix('.report.json')} says why" in printed
    assert f"{videos / 'broken.mp4'}: not a video file" in printed
    assert "       2  not a video file" in printed and "       1  no such file" in printed
    assert f"3 of 9 videos are broken; {bad_list} lists them" in printed
    words = Tokenizer.train(["a small red square"], 60)
    data = replace(recipe.data, train=annotation, videos=videos)
    with pytest.raises(ValueError, match=f"entry 2 is about {videos}/gone.mp4: no such file"):
        RETRIEVAL.training_items(replace(recipe, data=data), words, None)
    items = RETRIEVAL.training_items(replace(recipe, data=replace(data, bad_list=bad_list)), words, None)
    assert len(items) == len(items.videos) == 6 and not set(items.videos) & set(found)
    assert f"3 of 9 entries are left out, {bad_list} lists their videos" in caplog.text


def test_an_interrupted_check_goes_on_where_it_was(some_bad, tmp_path, capsys):
    annotation, videos = some_bad
    names, out = load_videos(annotation), tmp_path / "list" / "bad.json"
    (videos / names[3]).rename(videos / "away.mp4")
    out.parent.mkdir()
    report, partial = out.with_name("report.json"), out.with_name("report.json.partial")
    causes = {name: "seen before" if name == names[0] else None for name in names[:6]}
    known = [(name, {"facts": {}, "readers": {"pyav": cause}}) for name, cause in causes.items()]
    settings = check_settings(videos, 50_000_000)
    partial.write_text("\n".join([*map(json.dumps, [settings, *known]), '["cut o']))
    check(annotation, videos, out, report, jobs=1)
    assert json.loads(out.read_text()) == {names[0]: "seen before"}
    assert sorted(path.name for path in out.parent.iterdir()) == ["bad.json", "report.json"]
    settings[0] = "/another/folder"
    partial.write_text("\n".join([*map(json.dumps, [settings, *known]), ""]))
    check(annotation, videos, out, report, jobs=1)
    assert list(json.loads(out.read_text())) == [*names[:3], names[3]]


def test_videos_are_beside_their_annotation_unless_a_folder_is_given(some_bad, tmp_path):
    annotation, videos = some_bad
    annotation.write_text('[{"video": "gone.mp4", "caption": "a"}]')
    check(annotation, jobs=1)
    assert json.loads(annotation.with_suffix(".bad.json").read_text()) == {"gone.mp4": "no such file"}
    videos.rename(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match="videos: there is no such folder, expected the videos of .*some.json"):
        check(annotation)


@pytest.mark.parametrize(
    "content, message", [([], r"holds \[\], expected an object"), ({"a": 1}, "'a' has 1, expected a")]
)
def test_a_file_that_is_no_bad_list_is_named(some_bad, recipe, tmp_path, content, message):
    (tmp_path / "bad.json").write_text(json.dumps(content))
    data = replace(recipe.data, train=some_bad[0], videos=some_bad[1], bad_list=tmp_path / "bad.json")
    with pytest.raises(ValueError, match=f"bad.json: {message}"):
        RETRIEVAL.training_items(replace(recipe, data=data), Tokenizer.train(["a"], 60), None)
    (tmp_path / "bad.json").write_text(json.dumps(dict.fromkeys(load_videos(some_bad[0]), "bad")))
    with pytest.raises(ValueError, match="some.json: .*bad.json lists every video"):
        RETRIEVAL.training_items(replace(recipe, data=data), Tokenizer.train(["a"], 60), None)


def test_features_of_a_recipe_fit_its_run(recipe, tmp_path):
    from stgt.models.stgt import STGT
    from stgt.randomness import seed_everything
    from stgt.training.run import require_features

    features(recipe, tmp_path / "features", views=2, batch_size=4, device="cpu")
    store = FeatureStore(tmp_path / "features")
    assert store.shape == (6, 2, 3, 1 + 4, 32)
    items = RETRIEVAL.training_items(recipe, Tokenizer.train(["a small red square"], 60), store)
    seed_everything(recipe.seed)
    model = STGT(recipe.model)
    require_features(store, items, model)
    assert items[0]["tokens"].dtype == torch.bfloat16
    with pytest.raises(ValueError, match="frames is 3 in the cache and 4 in this run"):
        other = replace(recipe, data=replace(recipe.data, frames=4))
        require_features(store, RETRIEVAL.training_items(other, items.tokenizer, store), model)


def test_a_tower_that_is_trained_cannot_be_cached(recipe, tmp_path):
    opened = replace(recipe.model, vision=replace(recipe.model.vision, open_blocks=-1))
    with pytest.raises(ValueError, match="vision.open_blocks is -1, expected 0"):
        features(replace(recipe, model=opened), tmp_path / "features")
    assert not any(tmp_path.iterdir())
