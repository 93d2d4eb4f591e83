import json
import os
import random

import huggingface_hub
import pytest
import torch
from helpers.tiny import tiny_batch, tiny_model
from safetensors.torch import load_file, save_file

from stgt.config import to_dict
from stgt.models.stgt import STGT
from stgt.runs import open_run
from stgt.weights import pretrained


@pytest.fixture
def folder(tmp_path):
    tiny_model(seed=0).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_a_saved_model_loads_again(folder):
    source, loaded = tiny_model(seed=0), STGT.from_pretrained(folder)
    assert sorted(os.listdir(folder)) == ["config.json", "model.safetensors"]
    assert os.stat(folder / "model.safetensors").st_mode == os.stat(folder / "config.json").st_mode
    assert to_dict(loaded.config) == to_dict(source.config) and not loaded.training
    for name, tensor in loaded.state_dict().items():
        assert torch.equal(tensor, source.state_dict()[name]), name
    batch = tiny_batch()
    assert torch.equal(loaded.encode_video(batch["video"]).queries, source.eval().encode_video(batch["video"]).queries)
    assert pretrained.is_pretrained(folder) and not pretrained.is_pretrained(folder.parent)


def test_the_facts_about_the_training_are_read_again(folder):
    assert pretrained.read_training(folder / "config.json") == pretrained.Training()
    assert open_run(folder, "cpu", words=False).config.data.frames == tiny_model().config.graph.frames
    training = pretrained.Training(("generation",), tiny_model().config.graph.frames + 3, "decord")
    tiny_model().save_pretrained(folder, training=training)
    assert pretrained.read_training(folder / "config.json") == training
    opened = open_run(folder, "cpu", words=False)
    assert opened.training == training and opened.config.data.decoder == "decord"


@pytest.mark.parametrize(
    "facts, message",
    [
        ({"frames": 0}, "Training.frames is 0, expected at least 1 and at most 10000"),
        ({"frames": 8.0}, "Training.frames is 8.0, expected a whole number or None"),
        ({"decoder": "opencv"}, "Training.decoder is 'opencv', expected one of 'auto', 'pyav', 'decord'"),
        ({"untrained": "matching"}, "Training.untrained is 'matching', expected a list in which each entry is one of"),
    ],
)
def test_facts_that_make_no_sense(facts, message, folder):
    (folder / "config.json").write_text(json.dumps({"model_type": "stgt"} | facts))
    with pytest.raises(ValueError, match=f"config.json: {message}"):
        open_run(folder, "cpu")


def test_saving_again_replaces(folder):
    tiny_model(seed=1, graph={"frames": 3}).save_pretrained(str(folder))
    loaded = STGT.from_pretrained(str(folder))
    assert loaded.config.graph.frames == 3 and torch.equal(loaded.ln_vision.weight, tiny_model(seed=1).ln_vision.weight)


def test_saving_again_that_fails_leaves_the_old_model(folder, monkeypatch):
    def fail(*_, **__):
        raise OSError(28, "No space left on device")

    for name in ("save_tensors", "file_hash", "sealed"):
        with monkeypatch.context() as patch, pytest.raises(OSError, match="could not be written .No space left"):
            patch.setattr(pretrained, name, fail)
            tiny_model(seed=1).save_pretrained(folder)
        assert sorted(os.listdir(folder)) == ["config.json", "model.safetensors"]
        assert torch.equal(STGT.from_pretrained(folder).itm_head.weight, tiny_model(seed=0).itm_head.weight)


def test_a_configuration_that_is_no_json_is_named(folder):
    (folder / "config.json").write_bytes(b"{" + (folder / "config.json").read_bytes())
    with pytest.raises(ValueError, match="config.json: not JSON"):
        open_run(folder)
    os.remove(folder / "config.json")
    assert not pretrained.is_pretrained(folder)  # a checkpoint of a run has weights alone


def test_a_tower_in_the_folder_is_not_downloaded(tmp_path):
    torch.save(tiny_model(seed=3).vision.tower.state_dict(), tmp_path / "tower.pth")
    tiny_model(vision={"pretrained": str(tmp_path / "tower.pth")}).save_pretrained(tmp_path / "model")
    os.remove(tmp_path / "tower.pth")
    loaded = STGT.from_pretrained(tmp_path / "model")
    assert loaded.config.vision.pretrained is None
    assert torch.equal(loaded.vision.tower.pos_embed, tiny_model(seed=3).vision.tower.pos_embed)


def test_without_a_tower(folder):
    whole, bare = STGT.from_pretrained(folder), STGT.from_pretrained(folder, tower=False)
    assert bare.vision is None
    tokens = whole.visual_tokens(tiny_batch()["video"])
    assert torch.equal(bare.encode_video(tokens=tokens).queries, whole.encode_video(tokens=tokens).queries)
    bare.save_pretrained(folder)
    assert not pretrained.has_tower(folder)
    assert STGT.from_pretrained(folder, tower=False).vision is None
    with pytest.raises(ValueError, match="model.safetensors has no vision tower, and .*config.json does not say where"):
        STGT.from_pretrained(folder)


def test_the_error_names_a_tower_that_cannot_be_downloaded(folder, monkeypatch):
    STGT.from_pretrained(folder, tower=False).save_pretrained(folder)
    content = json.loads((folder / "config.json").read_text())
    content["vision"] = dict(tower="ViT-B-32", pretrained="no-such-tag")
    content["graph"]["heads"] = 16
    (folder / "config.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="VisionConfig.pretrained is 'no-such-tag': "):
        STGT.from_pretrained(folder)


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda state: state.pop("temp"), "1 missing: temp"),
        (lambda state: state.update(queue=torch.zeros(1)), "1 unexpected: queue"),
        (lambda state: state.update(temp=torch.zeros(2)), r"1 mis-shaped: temp: \(2,\) in the file, \(\) in the model"),
    ],
)
def test_tensors_that_do_not_fit(change, message, folder):
    state = load_file(folder / "model.safetensors")
    change(state)
    save_file(state, folder / "model.safetensors")
    with pytest.raises(ValueError, match=message):
        STGT.from_pretrained(folder)


@pytest.mark.parametrize(
    "content, message",
    [
        ("{", "config.json: not JSON"),
        ("[]", r"config.json: holds \[\], expected an object"),
        ('{"model_type": "bert"}', "config.json describes a model of type 'bert', expected 'stgt'"),
        ('{"model_type": "stgt", "depth": 3}', "config.json: ModelConfig has no field depth"),
        ('{"model_type": "stgt", "graph": {"heads": 0}}', "config.json: GraphConfig.heads is 0, expected at least 1"),
        ('{"model_type": "stgt", "graph": {"heads": "x"}}', "config.json: "),
    ],
)
def test_configurations_that_are_not_ours(content, message, folder):
    (folder / "config.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        STGT.from_pretrained(folder)


def test_other_folders_are_refused(folder):
    with pytest.raises(ValueError, match="is a file, expected a folder; `stgt convert"):
        STGT.from_pretrained(folder / "model.safetensors")
    os.remove(folder / "model.safetensors")
    with pytest.raises(ValueError, match="has no model.safetensors, expected a folder that save_pretrained"):
        STGT.from_pretrained(folder)


def test_a_model_of_the_hub(folder, monkeypatch):
    asked = []

    def download(name, file, revision):
        asked.append((name, file, revision))
        return str(folder / file)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    loaded = STGT.from_pretrained("someone/stgt", revision="v2")
    assert asked == [("someone/stgt", "config.json", "v2"), ("someone/stgt", "model.safetensors", "v2")]
    assert torch.equal(loaded.temp, tiny_model().temp)


def test_a_hub_that_cannot_be_reached(monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(
        OSError, match="'someone/no-such-stgt' is no folder here, and the Hugging Face hub did not give"
    ):
        STGT.from_pretrained("someone/no-such-stgt")
    with pytest.raises(OSError, match="'/no/such/folder' is no folder here"):
        STGT.from_pretrained("/no/such/folder")


def test_a_flipped_byte_in_the_weights_is_refused_wherever_it_is(folder):
    path, draw = folder / "model.safetensors", random.Random(0)
    whole = path.read_bytes()
    for place in [*range(8), *draw.sample(range(8, len(whole)), 12)]:
        path.write_bytes(whole[:place] + bytes([whole[place] ^ (1 << draw.randrange(8))]) + whole[place + 1 :])
        with pytest.raises(ValueError, match="model.safetensors"):
            STGT.from_pretrained(folder, tower=pretrained.has_tower(folder))
    path.write_bytes(whole)
    STGT.from_pretrained(folder)


def test_a_configuration_that_was_changed_is_read_with_a_warning(folder, caplog):
    STGT.from_pretrained(folder)
    assert "was changed after it was written" not in caplog.text
    text = (folder / "config.json").read_text()
    (folder / "config.json").write_text(text.replace('"threshold": 0.1', '"threshold": 0.3'))
    assert STGT.from_pretrained(folder).config.graph.threshold == 0.3
    assert "config.json was changed after it was written; remove its value sha256" in caplog.text


def test_a_folder_of_version_0_1_0_has_no_checksums_and_is_read(folder):
    content = json.loads((folder / "config.json").read_text())
    del content["sha256"], content["files"]
    (folder / "config.json").write_text(json.dumps(content))
    STGT.from_pretrained(folder)


def test_weights_that_are_not_finite_are_neither_written_nor_read(folder, tmp_path):
    model = tiny_model()
    torch.nn.init.constant_(model.ln_vision.bias, float("nan"))
    with pytest.raises(ValueError, match="ln_vision.bias holds NaN"):
        model.save_pretrained(tmp_path / "other")
    assert not (tmp_path / "other").exists()
    weights = load_file(folder / "model.safetensors")
    weights["ln_vision.bias"][0] = float("inf")
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(ValueError, match="model.safetensors: ln_vision.bias holds NaN or infinite numbers"):
        STGT.from_pretrained(folder)
