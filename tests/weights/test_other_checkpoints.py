"""Checkpoints of other training programs: wrapped, nested, and with foreign objects beside the weights."""

import argparse
import collections
import enum
import json
import os
import pathlib
import random
import warnings
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from helpers.tiny import tiny_model
from safetensors.torch import save_file

from stgt.weights.load import load_released
from stgt.weights.names import released_name
from stgt.weights.tensors import read_tensors

WEIGHTS = {"vision.tower.blocks.0.weight": torch.arange(6.0).view(2, 3), "temp": torch.tensor(0.07)}


def before(prefix, weights=WEIGHTS):
    return {prefix + name: tensor for name, tensor in weights.items()}


def same(found, expected=WEIGHTS):
    return found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in expected)


class Settings:
    def __init__(self):
        self.lr, self.more = 0.1, {"betas": (0.9, 0.98)}


@dataclass(slots=True)
class Slots:
    lr: float = 0.1


class Attributes(dict):
    """A dictionary whose items are attributes too, like EasyDict and AttrDict."""

    def __init__(self, **values):
        super().__init__(values)
        self.__dict__ = self


class Stage(enum.Enum):
    FIRST = 1


@pytest.mark.parametrize(
    "content",
    [
        before("_orig_mod."),
        before("module."),
        before("module._orig_mod."),
        before("_orig_mod.module."),
        before("model.module._orig_mod.module."),
        {"vision._orig_mod.tower.blocks.0.weight": WEIGHTS["vision.tower.blocks.0.weight"], "temp": WEIGHTS["temp"]},
        before("_fsdp_wrapped_module._checkpoint_wrapped_module."),
        {
            "state_dict": before("model."),
            "pytorch-lightning_version": "2.5.0",
            "callbacks": {"a": {"b": 1}},
            "epoch": 3,
        },
        {"state_dict": before("model._orig_mod."), "hyper_parameters": {"lr": 0.1}},
        {"module": WEIGHTS, "ds_version": "0.16", "param_shapes": [{"temp": torch.Size([])}], "optimizer": None},
        {"module": {"state_dict": {"model": before("module.")}}},
        {"model": WEIGHTS, "model_ema": {name: tensor + 1 for name, tensor in WEIGHTS.items()}},
        {"ema": {"module": WEIGHTS}},
        {"state_dict_ema": before("module."), "state_dict": {}},
        {"n_averaged": torch.tensor(5)} | before("module."),
        before("ema_model.module."),
        before("model.") | before("model_ema.", {name: tensor + 1 for name, tensor in WEIGHTS.items()}),
        WEIGHTS | {"epoch": 3, "best": np.float64(0.5)},
    ],
    ids=lambda content: f"{next(iter(content))}…",
)
def test_wrapped_state_dicts(content, tmp_path):
    torch.save(content, tmp_path / "file.ckpt")
    assert same(read_tensors(tmp_path / "file.ckpt"))


@pytest.mark.parametrize("content", [{"ema": {"a": 1}}, {"model": Settings()}, {"model": {"epoch": 3}}, Settings()])
def test_files_without_tensors_are_refused(content, tmp_path):
    torch.save(content, tmp_path / "file.pth")
    with pytest.raises(ValueError, match=r"file\.pth holds no dictionary of tensors, expected the saved value"):
        read_tensors(tmp_path / "file.pth")


def test_the_keys_of_an_unknown_wrapper_are_shown(tmp_path):
    torch.save({"student": WEIGHTS, "teacher": WEIGHTS}, tmp_path / "file.pth")
    with pytest.raises(ValueError, match=r"state_dict\(\); it has the keys \[\"student\", \"teacher\"\]$"):
        read_tensors(tmp_path / "file.pth")


def test_two_names_that_become_one_are_refused(tmp_path):
    torch.save({"module.temp": torch.tensor(1.0), "model.temp": torch.tensor(2.0)}, tmp_path / "file.pth")
    with pytest.raises(ValueError, match=r"holds module.temp and model.temp, expected one tensor with the name temp"):
        read_tensors(tmp_path / "file.pth")


def test_an_average_beside_the_weights_is_mentioned(tmp_path, caplog):
    torch.save({"model": WEIGHTS, "ema": WEIGHTS}, tmp_path / "file.pth")
    read_tensors(tmp_path / "file.pth")
    assert "reading the weights under 'model', not their average under 'ema'" in caplog.text


NUMPY = {
    "best": np.float64(0.5), "step": np.int64(7), "flag": np.bool_(True), "history": np.arange(4.0),
    "names": np.array(["a"]), "dtype": np.dtype("float32"), "state": np.random.RandomState(0).get_state(),
}  # fmt: skip


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(
    "beside", [NUMPY, {"args": argparse.Namespace(lr=0.1, best=np.float32(1))}], ids=["numpy", "args"]
)
def test_numbers_and_options_beside_the_weights(beside, zipped, tmp_path):
    torch.save({"model": WEIGHTS} | beside, tmp_path / "file.pth", _use_new_zipfile_serialization=zipped)
    assert same(read_tensors(tmp_path / "file.pth"))


@pytest.mark.parametrize(
    "beside",
    [
        Settings(), Slots(), Attributes(lr=0.1, more=Attributes(a=[1])), Stage.FIRST, pathlib.Path("runs"),
        frozenset([1]), collections.defaultdict(list, a=[1]), [Settings, len, np.random.default_rng(0)],
    ],
    ids=lambda beside: type(beside).__name__,
)  # fmt: skip
def test_foreign_objects_beside_the_weights_are_not_created(beside, tmp_path, monkeypatch):
    torch.save({"state_dict": WEIGHTS, "config": beside}, tmp_path / "file.pth")
    for name in ("__init__", "__new__", "__setstate__"):
        if isinstance(beside, Settings):
            monkeypatch.setattr(Settings, name, lambda *_: pytest.fail("an object of the file was made"), raising=False)
    assert same(read_tensors(tmp_path / "file.pth"))


class Command:
    """An object whose pickle asks for a call."""

    def __init__(self, call, *arguments):
        self.call = call, arguments

    def __reduce__(self):
        return self.call


def test_nothing_that_a_file_asks_for_is_called(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"model": WEIGHTS, "x": Command(exec, "open('attacked', 'w')")}, "exec.pth")
    assert same(read_tensors("exec.pth"))
    touch, mkdir = Command(pathlib.Path.touch, pathlib.Path("attacked")), Command(os.mkdir, "attacked")
    for command, cause in ((touch, "Trying to call reduce for"), (mkdir, "unsupported GLOBAL .*mkdir whose module")):
        torch.save({"model": WEIGHTS, "x": command}, "call.pth")
        with pytest.raises(ValueError, match=rf"^call.pth cannot be read without running code .*{cause}") as error:
            read_tensors("call.pth")
        assert "\n" not in str(error.value)
    assert sorted(os.listdir()) == ["call.pth", "exec.pth"]


class Sequence(list):
    """A subclass of list. PyTorch's unpickler only fills plain lists."""


@pytest.mark.parametrize(
    "content, options, message",
    [
        ({"x": Sequence([1, 2])}, {}, r"\(Can only extend lists, but got <class 'collections.Counter'>\)"),
        (
            {"x": Settings()},
            {"_use_new_zipfile_serialization": False},
            r"\(Unsupported global: GLOBAL \S+\.Settings was",
        ),
        ({}, {"pickle_protocol": 4}, r"\(Unsupported operand 149\).* in torch.save's own pickle protocol$"),
    ],
    ids=["list", "legacy", "protocol"],
)
def test_unreadable_files_are_refused_with_one_line(content, options, message, tmp_path):
    torch.save({"model": WEIGHTS} | content, tmp_path / "file.pth", **options)
    with pytest.raises(ValueError, match=message) as error:
        read_tensors(tmp_path / "file.pth")
    assert "\n" not in str(error.value) and "save its state dict alone" in str(error.value)
    assert "weights_only" not in str(error.value)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_damaged_file_is_read_or_refused_with_its_name(zipped, tmp_path):
    path, draw = tmp_path / "model.pth", random.Random(0)
    torch.save({"model": WEIGHTS, "step": 7}, path, _use_new_zipfile_serialization=zipped)
    whole = path.read_bytes()
    start = whole.index(b"step") - 100
    for _ in range(150):
        place = start + draw.randrange(200)
        path.write_bytes(whole[:place] + bytes([draw.randrange(256)]) + whole[place + 1 :])
        try:
            read_tensors(path)
        except ValueError as error:
            assert str(error).startswith(str(path))


@pytest.mark.parametrize("content", [b"", b"<!DOCTYPE html>", (3).to_bytes(8, "little") + b"{}   "])
def test_a_file_of_another_kind_is_refused_by_its_first_bytes(content, tmp_path):
    """These are an error page that was downloaded, and safetensors under another ending."""
    (tmp_path / "file.pth").write_bytes(content)
    with pytest.raises(ValueError, match="file.pth begins with .*, expected a file of torch.save, or one") as error:
        read_tensors(tmp_path / "file.pth")
    assert repr(content[:4]) in str(error.value)


@pytest.mark.parametrize("name", ["file.pth", "model.safetensors"])
def test_a_pointer_of_git_lfs_is_named(name, tmp_path):
    (tmp_path / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    with pytest.raises(ValueError, match=f"{name} is a pointer of Git LFS, not the file itself"):
        read_tensors(tmp_path / name)


def test_a_folder_without_weights_says_what_was_expected(tmp_path):
    save_file(WEIGHTS, tmp_path / "adapter_model.safetensors")
    with pytest.raises(FileNotFoundError, match="has no weights in Hugging Face's format, expected model.safetensors"):
        read_tensors(tmp_path)


def test_a_tensor_in_two_pieces_is_refused(tmp_path):
    """Pieces of two versions of a model can lie in one folder. It is not known which of two tensors belongs to it."""
    pieces = ["1-of-2.safetensors", "2-of-2.safetensors"]
    save_file(WEIGHTS, tmp_path / pieces[0])
    save_file({"temp": WEIGHTS["temp"] + 1, "bias": torch.zeros(2)}, tmp_path / pieces[1])
    places = dict.fromkeys(WEIGHTS, pieces[0]) | {"bias": pieces[1]}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    with pytest.raises(ValueError, match="temp is in 1-of-2.safetensors and in 2-of-2.safetensors, expected in one"):
        read_tensors(tmp_path)


def test_a_dictionary_that_contains_itself_is_refused(tmp_path):
    content = {"temp": torch.tensor(1.0)}
    content["model"] = content
    torch.save(content, tmp_path / "circle.pth")
    with pytest.raises(ValueError, match="circle.pth holds a dictionary that contains itself"):
        read_tensors(tmp_path / "circle.pth")


def test_torchscript_and_partitioned_weights_are_refused(tmp_path):
    with warnings.catch_warnings(action="ignore"):
        torch.jit.script(torch.nn.Linear(1, 1)).save(tmp_path / "script.pt")
    with pytest.raises(ValueError, match=r"script.pt is not a checkpoint of plain tensors: .*torchscript"):
        read_tensors(tmp_path / "script.pt")
    torch.save({"module": {"a": torch.zeros(0)}, "ds_version": "0.16"}, tmp_path / "zero.pt")
    with pytest.raises(ValueError, match=r"zero.pt holds only empty tensors, .*zero_to_fp32.py"):
        read_tensors(tmp_path / "zero.pt")


@pytest.mark.parametrize("whole, write", [("model.safetensors", save_file), ("pytorch_model.bin", torch.save)])
def test_pieces_and_their_index(whole, write, tmp_path):
    first, second = (f"{part}-of-2.{whole.rpartition('.')[2]}" for part in (1, 2))
    places = dict(zip(WEIGHTS, (first, second), strict=True))
    for name, piece in places.items():
        write({name: WEIGHTS[name]}, tmp_path / piece)
    index = tmp_path / f"{whole}.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": places}))
    assert same(read_tensors(tmp_path)) and same(read_tensors(index))
    (tmp_path / second).unlink()
    with pytest.raises(FileNotFoundError, match=f"index.json lists the file {second}, but there is no such file"):
        read_tensors(tmp_path)
    index.write_text(json.dumps({"weight_map": {"a": "../outside.bin"}}))
    with pytest.raises(
        ValueError, match=r"index.json: '.*' is in \"../outside.bin\", expected a file's name without a folder"
    ):
        read_tensors(index)
    for wrong in ("{", "[]", '{"weight_map": 3}', "{}"):
        index.write_text(wrong)
        with pytest.raises(
            ValueError, match=r"index.json: .*(not JSON|no 'weight_map'|expected an object|expected a file's name)"
        ):
            read_tensors(tmp_path)


def test_a_model_from_a_lightning_checkpoint(tmp_path):
    """Tensors of other parts of a Lightning module are named in an error, and not ignored."""
    source, target = tiny_model(seed=0), tiny_model(seed=1)
    state = {f"model._orig_mod.{released_name(name)}": tensor for name, tensor in source.state_dict().items()}
    torch.save({"state_dict": state, "epoch": np.int64(3), "hparams": Settings()}, tmp_path / "last.ckpt")
    assert load_released(target, tmp_path / "last.ckpt") == []
    assert all(torch.equal(tensor, source.state_dict()[name]) for name, tensor in target.state_dict().items())
    torch.save({"state_dict": state | {"metric.total": torch.zeros(1)}}, tmp_path / "last.ckpt")
    with pytest.raises(ValueError, match="1 unexpected: metric.total"):
        load_released(target, tmp_path / "last.ckpt")
