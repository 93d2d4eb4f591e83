"""After post-training the host works alone: the folder is an ordinary run of the same model, at the same cost."""

import json

import pytest
import torch

from stgt import checkpoint as ckpt
from stgt.finsta.hosts.folders import open_host
from stgt.finsta.model.finsta import Finsta
from stgt.finsta.saved import load_finsta
from stgt.paper.flops import count_flops
from stgt.runs import load_run
from stgt.training.log import read_log


def shapes(model):
    return {name: (tensor.shape, tensor.dtype) for name, tensor in model.state_dict().items()}


def test_the_model_has_the_same_tensors_and_the_same_cost(run, trained):
    before, after = load_run(run, "cpu"), load_run(trained, "cpu")
    assert shapes(before.model) == shapes(after.model)
    assert list(before.model.state_dict()) == list(after.model.state_dict())
    video, ids = torch.randn(2, 4, 3, 32, 32), torch.ones(2, 5, dtype=torch.int64)

    def infer(model):
        features = model.encode_video(video)
        model.similarity(features.queries, model.encode_text(ids, ids))
        return model.match(features.embeds, ids, ids)

    costs = [count_flops(lambda model=each.model: infer(model)) for each in (before, after)]
    assert costs[0] == costs[1] > 0
    assert not any(torch.equal(infer(before.model), each) for each in (infer(after.model),))


def test_the_folder_is_a_run_that_other_commands_open(trained, stgt, tmp_path):
    place = ["--features", tmp_path / "features"]
    status, printed = stgt("evaluate", "--model", trained, *place, "--out", tmp_path / "evaluation.json")
    assert status == 0, printed
    assert json.loads((tmp_path / "evaluation.json").read_text())["step"] == 8
    videos = load_run(trained, "cpu").config.data.videos
    status, printed = stgt("search", "a red square", "--videos", videos, "--model", trained, *place)
    assert status == 0 and ".mp4" in printed


def test_finsta_itself_is_kept_beside_the_run(trained):
    finsta = load_finsta(trained)
    assert isinstance(finsta, Finsta) and not finsta.training and finsta.config.width == 16
    tensors = ckpt.read_tensors(ckpt.latest_checkpoint(trained), "objective")
    assert all(torch.equal(tensors[f"finsta.{name}"], tensor) for name, tensor in finsta.state_dict().items())


def test_the_first_stage_leaves_the_host_as_it_is(post_train, run, tmp_path):
    assert post_train(tmp_path / "out", "--save-every", 4, "--keep", 9)[0] == 0
    checkpoints = {path.name: path for path in ckpt.checkpoints(tmp_path / "out")}
    assert list(checkpoints) == ["step-00000000", "step-00000004", "step-00000008"]
    begun, aligned, ended = (ckpt.read_tensors(path, "model") for path in checkpoints.values())
    original = ckpt.read_tensors(ckpt.latest_checkpoint(run), "model")
    assert all(
        torch.equal(tensor, begun[name]) and torch.equal(tensor, aligned[name]) for name, tensor in original.items()
    )
    assert not all(torch.equal(tensor, ended[name]) for name, tensor in original.items())
    one, two = (ckpt.read_tensors(path, "objective") for path in list(checkpoints.values())[:2])
    assert not all(torch.equal(tensor, two[name]) for name, tensor in one.items())


def test_the_log_tells_the_stages_and_their_losses(trained):
    records = read_log(trained)
    assert [record["step"] for record in records] == [2, 4, 6, 8]
    assert [record["stage"] for record in records] == [1, 1, 2, 2]
    assert {"loss", "osc", "ptc", "vtc"} <= records[0].keys() and "host" not in records[0]
    assert {"loss", "host", "osc", "ptc", "distillation"} <= records[-1].keys() and "vtc" not in records[-1]
    assert records[0]["grad_norm_host"] == 0 < records[-1]["grad_norm_host"]
    total = sum(records[-1][name] for name in ("host", "osc", "ptc", "distillation"))
    assert records[-1]["loss"] == pytest.approx(total, rel=1e-5)


@pytest.mark.parametrize("control", ["steps", "labels", "shuffled"])
def test_controls_train_the_same_host(post_train, tmp_path, run, control):
    status, printed = post_train(tmp_path / "out", "--control", control, "--log-every", 1)
    assert status == 0, printed
    records = read_log(tmp_path / "out")
    assert [record["stage"] for record in records] == [1] * (4 if control == "shuffled" else 0) + [2] * 4
    expected = {"steps": {"host"}, "labels": {"host", "labels"}, "shuffled": {"host", "osc", "ptc", "distillation"}}
    found = {"host", "labels", "osc", "ptc", "vtc", "distillation"} & records[-1].keys()
    assert found == expected[control]
    assert shapes(load_run(run, "cpu").model) == shapes(load_run(tmp_path / "out", "cpu").model)
    assert (tmp_path / "out" / "finsta.safetensors").exists() == (control == "shuffled")
    if control != "shuffled":
        with pytest.raises(
            ValueError, match="finsta.safetensors: no such file, expected the folder of a post-training"
        ):
            load_finsta(tmp_path / "out")


def test_parts_of_the_loss_can_be_left_out(post_train, tmp_path):
    status, _ = post_train(
        tmp_path / "out", "--distillation-weight", 0, "--finsta.no-osc", "--align-epochs", 0, "--clip-norm", "None"
    )
    assert status == 0
    last = read_log(tmp_path / "out")[-1]
    assert last["step"] == 4 and last["loss"] == pytest.approx(last["host"] + last["ptc"], rel=1e-5)
    assert "osc" not in last and "distillation" not in last


def test_bf16_is_an_autocast_over_weights_in_float32(post_train, run, tmp_path):
    status, printed = post_train(tmp_path / "out", "--precision", "bf16")
    assert status == 0, printed
    assert shapes(load_run(run, "cpu").model) == shapes(load_run(tmp_path / "out", "cpu").model)
    assert all(tensor.dtype == torch.float32 for tensor in load_finsta(tmp_path / "out").state_dict().values())


def test_a_host_that_was_trained_in_fp16_needs_another_precision(post_train, tmp_path, monkeypatch):
    opened = open_host

    def in_fp16(*args, **options):
        folder = opened(*args, **options)
        folder.precision = "fp16"
        return folder

    monkeypatch.setattr("stgt.finsta.training.run.open_host", in_fp16)
    status, printed = post_train(tmp_path / "out")
    assert status == 2 and "trained in fp16, whose losses are scaled, expected --precision bf16 or fp32" in printed
    assert post_train(tmp_path / "out", "--precision", "fp32")[0] == 0


def test_damaged_weights_of_finsta_are_refused(trained, tmp_path):
    for name in ("finsta.json", "finsta.safetensors"):
        (tmp_path / name).write_bytes((trained / name).read_bytes())
    settings = json.loads((tmp_path / "finsta.json").read_text())
    (tmp_path / "finsta.json").write_text(json.dumps(settings | {"finsta": settings["finsta"] | {"width": 32}}))
    with pytest.raises(ValueError, match="finsta.safetensors: does not hold the weights that .*finsta.json describes"):
        load_finsta(tmp_path)
    (tmp_path / "finsta.json").write_text(json.dumps(settings))
    (tmp_path / "finsta.safetensors").write_bytes((trained / "finsta.safetensors").read_bytes()[:-4])
    with pytest.raises(ValueError, match="finsta.safetensors: does not hold the weights"):
        load_finsta(tmp_path)
