"""The examples run on simulated clips and at tiny sizes."""

import json
import runpy
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import stgt
from stgt.config import VisionConfig
from stgt.data.shapes import render_shapes
from stgt.data.transforms import CLIP_MEAN, CLIP_STD
from stgt.models.vision import VisionTower
from stgt.search.search import find_videos

EXAMPLES = Path(__file__).parent.parent / "examples"


def example(name: str) -> dict:
    """The names that an example defines. Its main() is not called."""
    return runpy.run_path(str(EXAMPLES / f"{name}.py"))


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> Path:
    return render_shapes(tmp_path_factory.mktemp("data") / "shapes", train=8, test=1, size=32, frames=4) / "videos"


@pytest.fixture(scope="module")
def trained(videos, tmp_path_factory) -> tuple[Path, dict]:
    """The folder of the run that your_own_data_set.py trains, and the result of its evaluation."""
    out = tmp_path_factory.mktemp("runs") / "mine"
    clips = json.loads((videos.parent / "train.json").read_text())
    sentences = out.with_name("sentences.tsv")
    sentences.write_text("".join(f"{clip['video']}\t{clip['caption']}\n" for clip in clips) + "\n")
    return out, example("your_own_data_set")["main"](videos, sentences, out, epochs=1)


def test_the_kernels_train_a_new_model(capsys):
    first, second = example("kernels_in_your_model")["main"]()
    assert second < first
    assert "of the pairs within the window are edges" in capsys.readouterr().out


def test_a_new_data_set_is_trained_on_and_evaluated(trained):
    out, result = trained
    assert result["split"]["videos"] == 2 and result["split"]["captions"] == 2
    assert result["step"] == 1 and result["threshold"] == 0.3
    assert json.loads((out / "evaluation.json").read_text()) == result
    names = [{clip["video"] for clip in json.loads(path.read_text())} for path in out.with_name("mine-data").iterdir()]
    assert sorted(map(len, names)) == [2, 6] and not names[0] & names[1]


def test_clips_are_listed_in_the_order_of_their_similarity_to_a_sentence(trained, videos, capsys):
    out, _ = trained
    found = example("embed_and_search")["main"](str(out), videos, "a green triangle grows", top=3)
    model, paths = stgt.load(out), sorted(videos.iterdir())
    cosines = (model.embed_videos(paths) @ model.embed_texts(["a green triangle grows"])[0]).amax(1)
    best = cosines.sort(descending=True)
    assert [path for path, _ in found] == [paths[i] for i in best.indices[:3]]
    assert [score for _, score in found] == pytest.approx(best.values[:3].tolist(), abs=1e-6)
    assert capsys.readouterr().out.count(".mp4") == 3


def test_sentence_transformers_finds_and_ranks_the_clips(trained, videos, tmp_path, capsys):
    pytest.importorskip("sentence_transformers", reason="pip install 'sentence-transformers>=6'")
    out, _ = trained
    sentence = "a green triangle grows"
    found = example("sentence_transformers_ranking")["main"](str(out), videos, sentence, top=3)
    hits = find_videos(stgt.load(out).run, sentence, videos, tmp_path, top=3)
    assert [path for path, _ in found] == [hit.found for hit in hits]
    assert [score for _, score in found] == pytest.approx([hit.score for hit in hits], abs=1e-5)
    assert capsys.readouterr().out.count(".mp4") == 3


def test_the_tower_with_the_weights_of_dinov2_computes_what_dinov2_computes(tmp_path):
    from transformers import Dinov2Config, Dinov2Model

    names, side, patch = example("frozen_dinov2"), 3, 4
    torch.manual_seed(0)
    sizes = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=5 * patch, patch_size=patch)
    dino = Dinov2Model(Dinov2Config(**sizes, layerscale_value=0.7)).eval()
    for parameter in dino.parameters():  # biases would be 0, and norms 1
        torch.nn.init.normal_(parameter, std=0.3)
    dino.save_pretrained(tmp_path)  # its file has the published names, as the one of ONNX has
    save_file(names["tower_weights"](load_file(tmp_path / "model.safetensors"), side), tmp_path / "tower.safetensors")
    config = dict(image_size=side * patch, patch_size=patch, width=32, layers=2, heads=2, mlp_ratio=4.0)
    weights = str(tmp_path / "tower.safetensors")
    tower = VisionTower(VisionConfig(tower="vit", pretrained=weights, **config, dtype="float32")).eval()

    frames = torch.rand(2, 3, side * patch, side * patch)
    ours, theirs = (
        (frames - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
        for mean, std in ((CLIP_MEAN, CLIP_STD), (names["IMAGENET_MEAN"], names["IMAGENET_STD"]))
    )
    with torch.no_grad():
        expected = dino(theirs, output_hidden_states=True).hidden_states[-1]
        torch.testing.assert_close(tower(ours[None])[0], expected, rtol=1e-4, atol=1e-4)
