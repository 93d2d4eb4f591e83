import os
import pickle

import pytest
import torch
from helpers.tiny import tiny_batch, tiny_model
from safetensors.torch import load_file, save_file

from stgt.weights.load import export_released, load_released
from stgt.weights.names import released_name
from stgt.weights.tensors import read_tensors

FROZEN = ("visual_encoder.", "graph_cross_model.pos_2D_embed")


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_an_exported_model_loads_again(suffix, tmp_path):
    path = tmp_path / f"released{suffix}"
    source, target = tiny_model(seed=0), tiny_model(seed=1)
    export_released(source, path)
    assert os.listdir(tmp_path) == [path.name]
    assert load_released(target, path) == []
    for name, tensor in target.state_dict().items():
        assert torch.equal(tensor, source.state_dict()[name])


def test_exported_names_are_the_released_ones(golden, tmp_path):
    tensors, _ = golden("official_model_tiny")
    expected = {key[6:] for key in tensors if key.startswith("param.")}
    # The model has two layers of the recorded Q-Former's four. Otherwise the names are the same.
    expected = {name for name in expected if ".layer.2." not in name and ".layer.3." not in name}
    derived = {
        "Qformer.bert.embeddings.position_ids",
        "Qformer.cls.predictions.decoder.weight",
        "Qformer.cls.predictions.decoder.bias",
    }
    export_released(tiny_model(), tmp_path / "released.safetensors")
    assert set(load_file(tmp_path / "released.safetensors")) == expected | derived
    export_released(tiny_model(), tmp_path / "released.pth")
    assert list(torch.load(tmp_path / "released.pth", weights_only=True)) == ["model"]


@pytest.fixture
def released(tmp_path):
    """A function released(drop) that returns a file without the names that begin with `drop`, and its model."""

    def make(*drop, **replace):
        model, path = tiny_model(seed=0), tmp_path / "released.pth"
        state = {released_name(name): tensor for name, tensor in model.state_dict().items()}
        state = {name: tensor for name, tensor in state.items() if not name.startswith(drop or ("-",))}
        torch.save({"model": state | replace, "epoch": 3}, path)
        return path, model

    return make


def test_frozen_tensors_may_be_absent(released, caplog):
    path, source = released(*FROZEN)
    model = tiny_model(seed=1)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert load_released(model, path) == list(FROZEN)
    assert "visual_encoder. is not in" in caplog.text and "pos_2D_embed" in caplog.text
    for name, tensor in model.state_dict().items():
        frozen = released_name(name).startswith(FROZEN)
        assert torch.equal(tensor, before[name] if frozen else source.state_dict()[name]), name


def test_pos2d_load_needs_the_embedding(released):
    path, _ = released(*FROZEN)
    with pytest.raises(ValueError, match="1 missing: graph_cross_model.pos_2D_embed"):
        load_released(tiny_model(graph={"pos2d": "load"}), path)


def test_part_of_a_tower_is_an_error(released):
    path, _ = released("visual_encoder.blocks.1.")
    with pytest.raises(ValueError, match=r"13 missing: visual_encoder\.blocks\.1\.\* \(13\)"):
        load_released(tiny_model(), path)


def test_a_blip2_checkpoint_has_no_graph_transformer(released):
    path, source = released("graph_cross_model.", "visual_encoder.")
    model = tiny_model(seed=1)
    with pytest.raises(ValueError, match="missing: graph_cross_model"):
        load_released(model, path)
    absent = load_released(model, path, allow_missing=("visual_encoder.", "graph_cross_model."))
    assert absent == ["visual_encoder.", "graph_cross_model."]
    assert torch.equal(model.qformer.query_tokens, source.qformer.query_tokens)


def test_every_misfit_is_listed_and_nothing_is_loaded(released):
    path, _ = released("vision_proj", **{"other.weight": torch.zeros(1), "temp": torch.zeros(3)})
    model = tiny_model(seed=1)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(ValueError) as error:
        load_released(model, path)
    message = str(error.value)
    assert str(path) in message
    assert "2 missing: vision_proj.bias, vision_proj.weight" in message
    assert "1 unexpected: other.weight" in message
    assert "1 mis-shaped: temp: (3,) in the file, () in the model" in message
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_long_lists_of_names_are_shortened_to_their_beginnings(released):
    path, _ = released("Qformer.", "temp")
    with pytest.raises(ValueError, match=r"64 missing: Qformer\.\* \(63\), temp$"):
        load_released(tiny_model(), path)


def test_tied_tensors_are_read_and_checked(released):
    words = tiny_model(seed=0).qformer.embeddings.word_embeddings.weight.detach()
    decoder, positions = "Qformer.cls.predictions.decoder.weight", "Qformer.bert.embeddings.position_ids"
    path, _ = released(**{decoder: words, positions: torch.arange(16)})
    load_released(tiny_model(seed=1), path)
    path, _ = released(**{decoder: words + 1})
    with pytest.raises(ValueError, match="decoder.weight differs from"):
        load_released(tiny_model(seed=1), path)
    path, _ = released(**{"Qformer.cls.predictions.decoder.bias": torch.ones(30)})
    with pytest.raises(ValueError, match="decoder.bias differs from"):
        load_released(tiny_model(seed=1), path)


def test_half_precision_files_fill_a_float32_model(tmp_path):
    source, path = tiny_model(seed=0), tmp_path / "half.safetensors"
    save_file({released_name(name): t.half().contiguous() for name, t in source.state_dict().items()}, path)
    model = tiny_model(seed=1)
    load_released(model, path)
    assert model.temp.dtype == torch.float32
    assert torch.equal(model.vision_proj.weight, source.vision_proj.weight.half().float())


@pytest.mark.parametrize(
    "change, message",
    [
        (
            lambda t: (t * 100).to(torch.int8),
            r"2 in torch.int8, expected dense tensors .*: vision_proj.bias, vision_proj",
        ),
        (lambda t: t.to(torch.complex64), "2 in torch.complex64"),
        (lambda t: t.to(torch.float8_e4m3fn), "2 in torch.float8_e4m3fn"),
        (lambda t: t.to_sparse(), "2 in torch.sparse_coo"),
        (lambda t: t.to("meta"), r"2 in PyTorch's form without values \(meta\)"),
        (lambda t: t.double() + 1e300, "vision_proj.bias, vision_proj.weight hold NaN or infinite numbers"),
    ],
)
def test_tensors_that_do_not_hold_plain_numbers_are_refused(change, message, released):
    """Integers and float8 stand for scaled numbers. Copied as they are, they would give a model with wrong numbers."""
    weights = {released_name(name): t for name, t in tiny_model(seed=0).state_dict().items() if "vision_proj" in name}
    path, _ = released(**{name: change(tensor) for name, tensor in weights.items()})
    with pytest.raises(ValueError, match=message):
        load_released(tiny_model(seed=1), path)


class Attack:
    def __reduce__(self):
        return os.mkdir, ("attacked",)


@pytest.mark.parametrize("content", [{"model": Attack()}, {"model": {"temp": 3.0}}, [1, 2]])
def test_a_pickle_is_never_run(content, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save(content, "file.pth")
    with pytest.raises(ValueError, match="file.pth"):
        read_tensors("file.pth")
    with open("raw.bin", "wb") as file:
        pickle.dump(content, file, protocol=2)
    with pytest.raises(ValueError, match="raw.bin"):
        read_tensors("raw.bin")
    assert sorted(os.listdir()) == ["file.pth", "raw.bin"]


@pytest.mark.parametrize("name", ["broken.pth", "broken.safetensors"])
def test_broken_files_are_refused(name, tmp_path):
    path = tmp_path / name
    for content in (b"", b"not a checkpoint, but long enough to be read as one"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=name):
            read_tensors(path)
    with pytest.raises(FileNotFoundError, match="nothing"):
        read_tensors(tmp_path / "nothing.pth")


def test_a_loaded_model_gives_the_same_features(tmp_path):
    path = tmp_path / "released.safetensors"
    source, target, batch = tiny_model(seed=0).eval(), tiny_model(seed=1).eval(), tiny_batch()
    export_released(source, path)
    load_released(target, path)
    assert torch.equal(source.encode_video(batch["video"]).queries, target.encode_video(batch["video"]).queries)
