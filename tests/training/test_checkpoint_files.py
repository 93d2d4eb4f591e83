"""A checkpoint holds every tensor, and refuses models that do not fit."""

import os

import pytest
import torch
from helpers.standin import StandIn
from safetensors.torch import save_file
from torch import nn

from stgt import checkpoint as ckpt
from stgt import files
from stgt.config import VisionConfig, to_dict


def write(run, model, step=1, tower=None, keep=3):
    tensors = ckpt.model_tensors(model, without_tower=tower is not None)
    state = {"step": step, "tower": tower, "config": {"model": to_dict(model.config)}}
    return ckpt.write_checkpoint(run, step, {"model": tensors}, state, keep=keep)


def test_frozen_tied_scalar_and_half_precision_tensors_are_restored(tmp_path):
    model, other = StandIn().bfloat16(), StandIn().bfloat16()
    ckpt.load_model(other, write(tmp_path, model))
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), other.state_dict().values(), strict=True))
    assert other.head.weight is other.words.weight
    assert {"vision.weight", "pos", "temp"} <= ckpt.model_tensors(model).keys()


def test_files_are_safetensors_and_json_only(tmp_path):
    path = write(tmp_path, StandIn())
    assert sorted(os.listdir(path)) == ["model.safetensors", "state.json"]


def test_only_the_newest_are_kept(tmp_path):
    for step in (1, 2, 10, 100):
        write(tmp_path, StandIn(), step, keep=2)
    assert [p.name for p in ckpt.checkpoints(tmp_path)] == ["step-00000010", "step-00000100"]
    assert ckpt.latest_checkpoint(tmp_path).name == "step-00000100"


def test_another_model_is_refused_by_the_names_and_shapes_that_differ(tmp_path):
    path = write(tmp_path, StandIn(width=8))
    with pytest.raises(ckpt.CheckpointError, match=r"another model:(.|\n)*words.weight has shape \(11, 8\), here"):
        ckpt.load_model(StandIn(width=6), path)
    model = StandIn()
    model.extra = nn.Parameter(torch.zeros(1))
    model.config.graph.heads = 4
    with pytest.raises(ckpt.CheckpointError, match=r"model.graph.heads: 4, there 16(.|\n)*extra is missing"):
        ckpt.load_model(model, path)
    del model.extra, model.temp
    with pytest.raises(ckpt.CheckpointError, match="temp is unknown to this model"):
        ckpt.load_model(model, path)


def test_a_model_that_does_not_fit_is_not_changed(tmp_path):
    path = write(tmp_path, StandIn())
    model = StandIn()
    model.extra = nn.Parameter(torch.zeros(1))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(ckpt.CheckpointError):
        ckpt.load_model(model, path)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("name", ["model.safetensors", "state.json"])
def test_a_damaged_file_is_named(name, tmp_path):
    path = write(tmp_path, StandIn())
    os.truncate(path / name, 20)
    with pytest.raises(ckpt.CheckpointError, match=f"{name}: cannot be read"):
        ckpt.load_model(StandIn(), path)


def test_an_empty_run_folder_is_named(tmp_path):
    with pytest.raises(ckpt.CheckpointError, match="no checkpoint in it"):
        ckpt.latest_checkpoint(tmp_path)


def test_a_fetched_tower_is_stored_by_name_and_hash(tmp_path):
    model = StandIn()
    model.config.vision = VisionConfig(tower="ViT-B-16", pretrained="openai")
    path = write(tmp_path, model, tower=ckpt.tower_reference(model))
    assert not any(name.startswith("vision.") for name in ckpt.read_tensors(path, "model"))
    other = StandIn()
    other.config.vision = model.config.vision
    with pytest.raises(ckpt.CheckpointError, match=r"was trained on ViT-B-16 \(openai\) with weights"):
        ckpt.load_model(other, path)
    other.vision.load_state_dict(model.vision.state_dict())
    ckpt.load_model(other, path)
    assert torch.equal(other.words.weight, model.words.weight)


def test_a_tower_that_cannot_be_fetched_again_is_stored(tmp_path):
    file = tmp_path / "tower.safetensors"
    save_file({"x": torch.zeros(1)}, file)
    for vision in (
        VisionConfig(),
        VisionConfig(pretrained=str(file)),
        VisionConfig(pretrained="openai", open_blocks=2),
    ):
        model = StandIn()
        model.config.vision = vision
        assert ckpt.tower_reference(model) is None


def test_a_crash_between_two_files_leaves_no_checkpoint_and_the_next_write_cleans_up(tmp_path, monkeypatch):
    write(tmp_path, StandIn(), 1)

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(files, "_sync", full)
        with pytest.raises(ckpt.CheckpointError, match="No space left on device.*step-00000001 is intact"):
            write(tmp_path, StandIn(), 2)
    assert [p.name for p in ckpt.checkpoints(tmp_path)] == ["step-00000001"]
    write(tmp_path, StandIn(), 3)
    assert sorted(os.listdir(tmp_path / "checkpoints")) == ["step-00000001", "step-00000003"]
