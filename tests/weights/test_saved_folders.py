"""The folder of a saved model keeps what the vectors depend on, and takes no other folder's place."""

import os
from dataclasses import replace

import pytest
import torch
from helpers.tiny import tiny_model

import stgt as package
from stgt.runs import open_run
from stgt.weights.pretrained import read_training


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_the_vectors_of_a_saved_model_have_the_same_bits(precision, run, clips, tmp_path):
    model = package.load(run, device="cpu")
    model.run = model.run._replace(config=replace(model.run.config, precision=precision))
    model.save_pretrained(tmp_path / "model")
    saved = package.load(tmp_path / "model", device="cpu")
    videos, texts = [clips / "videos" / "test_00000.mp4"], ["a red circle grows"]
    assert torch.equal(saved.embed_videos(videos), model.embed_videos(videos))
    assert torch.equal(saved.embed_texts(texts), model.embed_texts(texts))
    assert read_training(tmp_path / "model" / "config.json").precision == precision
    saved.save_pretrained(tmp_path / "again")
    assert read_training(tmp_path / "again" / "config.json").precision == precision


def test_a_folder_without_a_precision_computes_in_float32(tmp_path):
    tiny_model().save_pretrained(tmp_path)
    text = (tmp_path / "config.json").read_text()
    assert '"precision": "fp32"' in text
    (tmp_path / "config.json").write_text(text.replace('"precision": "fp32",', ""))
    assert open_run(tmp_path, "cpu", words=False).config.precision == "fp32"


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_model_is_not_saved_over_a_run(run, tmp_path):
    before, model = contents(run), package.load(run, device="cpu")
    for save in (model.save_pretrained, model.run.model.save_pretrained):
        with pytest.raises(ValueError, match=r"holds a run or other files \(checkpoints\), expected a new folder"):
            save(run)
    assert contents(run) == before


@pytest.mark.parametrize("name", ["config.json", "state.json", "tokenizer/vocab.txt"])
def test_a_model_is_not_saved_over_other_files(name, run, tmp_path):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("{}")
    with pytest.raises(
        ValueError, match=f"holds a run or other files \\({name.partition('/')[0]}\\), expected a new folder"
    ):
        package.load(run, device="cpu").save_pretrained(tmp_path)
    assert [path.read_text() for path in contents(tmp_path)] == ["{}"]


def test_a_saved_model_is_replaced_and_other_names_are_free(run, tmp_path):
    (tmp_path / ".gitattributes").write_text("*.safetensors filter=lfs")
    model = package.load(run, device="cpu")
    for _ in range(2):
        model.save_pretrained(tmp_path)
    assert sorted(os.listdir(tmp_path)) == [".gitattributes", "config.json", "model.safetensors", "tokenizer"]
