"""A checkpoint that has changed is refused before anything is restored from it, and it is never removed."""

import json
import logging
import random
import shutil

import pytest
import torch
from helpers.standin import StandIn, config, trainer
from safetensors.torch import load_file, save_file

from stgt import checkpoint as ckpt
from stgt.files import file_hash
from stgt.integrity import sealed
from stgt.randomness import random_state


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of 5 steps, with checkpoints of steps 4 and 5. Tests do not write into it."""
    out = tmp_path_factory.mktemp("runs") / "run"
    trainer(config(out, epochs=1)).fit()
    assert [path.name for path in ckpt.checkpoints(out)] == ["step-00000004", "step-00000005"]
    return out


@pytest.fixture
def run(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "run")


def restore(run):
    """Resume from the newest checkpoint with a new model."""
    resumed = trainer(config(run, epochs=1))
    resumed._load(ckpt.newest_checkpoint(run))
    return resumed


def strip(checkpoint):
    """Make a checkpoint like those of version 0.1.0, without checksums and format."""
    state = json.loads((checkpoint / "state.json").read_text())
    for key in ("sha256", "format", "files"):
        del state[key]
    (checkpoint / "state.json").write_text(json.dumps(state, indent=1))


def rewrite(path, change):
    """Change a file of tensors, and its checksums to match."""
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)
    state = json.loads((path.parent / "state.json").read_text())
    del state["sha256"]
    state["files"][path.name] = file_hash(path)
    (path.parent / "state.json").write_text(sealed(state))


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "random.safetensors", "state.json"])
def test_a_flipped_byte_is_noticed_wherever_it_is(name, run):
    path, draw = ckpt.latest_checkpoint(run) / name, random.Random(name)
    whole = path.read_bytes()
    for place in draw.sample(range(len(whole)), 25):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ draw.randrange(1, 256)]) + whole[place + 1 :])
        with pytest.raises(ckpt.CheckpointError, match=f"step-00000005/{name}: cannot be read: .*remove its folder"):
            restore(run)
    path.write_bytes(whole)
    restore(run)


@pytest.mark.parametrize("name", ["optimizer.safetensors", "random.safetensors"])
def test_a_missing_file_is_named(name, run):
    (ckpt.latest_checkpoint(run) / name).unlink()
    with pytest.raises(ckpt.CheckpointError, match=f"{name}: cannot be read: there is no such file"):
        restore(run)


def test_a_checkpoint_of_version_0_1_0_is_read_with_a_warning(run, trained, caplog):
    for checkpoint in ckpt.checkpoints(run):
        strip(checkpoint)
    with caplog.at_level(logging.WARNING):
        old, new = restore(run), restore(trained)
    assert "was written by version 0.1.0, without checksums" in caplog.text
    for a, b in zip(old.model.state_dict().values(), new.model.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    assert old.step == new.step == 5
    state = ckpt.read_state(ckpt.latest_checkpoint(run))
    assert state == ckpt.read_state(ckpt.latest_checkpoint(trained))


def test_another_format_is_refused(run):
    path = ckpt.latest_checkpoint(run) / "state.json"
    state = json.loads(path.read_text()) | {"format": 3}
    del state["sha256"]
    path.write_text(sealed(state))
    with pytest.raises(ckpt.CheckpointError, match=r"state.json: has format 3, expected 2"):
        restore(run)


def test_a_step_that_differs_from_the_folders_name_is_refused(run):
    shutil.copytree(run / "checkpoints" / "step-00000004", run / "checkpoints" / "step-00000009")
    with pytest.raises(ckpt.CheckpointError, match="step-00000009/state.json: 'step' is 4, expected 9"):
        restore(run)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: [t.pop(key) for key in list(t) if key.startswith("body.0.weight:")], "body.0.weight has no entries"),
        (lambda t: t.pop("body.0.weight:exp_avg"), "body.0.weight has exp_avg_sq, step, expected step, exp_avg"),
        (lambda t: t.update({"extra:step": torch.ones(())}), "extra has entries, but is not trained here"),
        (lambda t: t.update({"vision.weight:step": torch.ones(())}), "vision.weight has entries, but is not trained"),
        (lambda t: t.update({"temp:exp_avg": torch.ones(2)}), r"temp:exp_avg has shape \(2,\), here \(\)"),
        (
            lambda t: t.update({"temp:exp_avg": torch.ones(()).half()}),
            "temp:exp_avg is torch.float16, here torch.float32",
        ),
        (lambda t: t["temp:exp_avg_sq"].fill_(float("nan")), "holds NaN or infinite numbers.*temp:exp_avg_sq"),
    ],
)
def test_optimizer_entries_that_do_not_fit_are_named(change, message, run):
    rewrite(ckpt.latest_checkpoint(run) / "optimizer.safetensors", change)
    with pytest.raises(ckpt.CheckpointError, match=rf"optimizer.safetensors: (.|\n)*{message}"):
        restore(run)


def test_a_parameter_without_state_is_recorded_as_idle(tmp_path):
    model = StandIn()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad])
    model.temp.grad = torch.ones(())
    optimizer.step()
    tensors = ckpt.optimizer_tensors(model, optimizer)
    assert {"temp:step", "temp:exp_avg", "temp:exp_avg_sq", "body.0.weight:idle"} < tensors.keys()
    state = {"step": 1, "config": {"model": {}}}
    path = ckpt.write_checkpoint(tmp_path, 1, {"model": {}, "optimizer": tensors}, state, keep=1)
    again = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad])
    ckpt.load_optimizer(model, again, path)
    assert list(again.state) == [model.temp]


def test_all_optimizer_state_is_read_to_the_device_of_its_parameter(run):
    with torch.device("meta"):
        model = StandIn()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad])
    ckpt.load_optimizer(model, optimizer, ckpt.latest_checkpoint(run))
    devices = {key: value.device.type for state in optimizer.state.values() for key, value in state.items()}
    assert devices == dict.fromkeys(("step", "exp_avg", "exp_avg_sq"), "meta")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("0.numpy"), "0.numpy is missing"),
        (lambda t: t.update({"1.torch": t["0.torch"].clone()}), "1.torch is unknown"),
        (lambda t: t.update({"0.numpy": t["0.numpy"][:-1].clone()}), r"0.numpy has shape \(625,\), here \(626,\)"),
        (lambda t: t.update({"0.torch": t["0.torch"].int()}), "0.torch is torch.int32, here torch.uint8"),
        (lambda t: t["0.python_gauss"].fill_(float("inf")), "holds NaN or infinite numbers.*python_gauss"),
        (lambda t: t["0.python"].fill_(-1), "does not hold the state of a generator"),
    ],
)
def test_states_of_generators_that_do_not_fit_are_named(change, message, run):
    rewrite(ckpt.latest_checkpoint(run) / "random.safetensors", change)
    before = random_state()
    with pytest.raises(ckpt.CheckpointError, match=rf"random.safetensors: (.|\n)*{message}"):
        ckpt.load_random(ckpt.latest_checkpoint(run), 0, 1)
    if message != "does not hold the state of a generator":
        assert all(torch.equal(before[name], value) for name, value in random_state().items())


def test_weights_that_are_not_finite_or_of_another_dtype_are_named(run):
    path = ckpt.latest_checkpoint(run) / "model.safetensors"
    rewrite(path, lambda tensors: tensors["body.0.bias"].fill_(float("nan")))
    with pytest.raises(ckpt.CheckpointError, match="model.safetensors: holds NaN or infinite .* in body.0.bias"):
        restore(run)
    rewrite(path, lambda tensors: tensors.update({"body.0.bias": torch.zeros(8, dtype=torch.bfloat16)}))
    with pytest.raises(ckpt.CheckpointError, match="body.0.bias is torch.bfloat16, here torch.float32"):
        restore(run)
    model = StandIn()
    ckpt.load_model(model, path.parent, convert=True)
    assert torch.equal(model.body[0].bias, torch.zeros(8))


def make_lookalikes(run):
    folder = run / "checkpoints"
    for name in ("step-00000099", "step-00000098.bak", "step-0000000097", "step-best", "step-00000096 (copy)"):
        (folder / name).mkdir()
        (folder / name / "notes.txt").write_text("precious")
    shutil.copytree(folder / "step-00000005", folder / "step-00000095")
    (folder / "step-00000095" / "model.safetensors").unlink()
    (folder / "step-00000094").write_text("no folder")
    return sorted(path.name for path in folder.iterdir() if path.name not in ("step-00000004", "step-00000005"))


def test_a_path_that_only_looks_like_a_checkpoint_is_passed_over_with_a_warning_and_kept(run, caplog):
    lookalikes = make_lookalikes(run)
    with caplog.at_level(logging.WARNING):
        assert ckpt.latest_checkpoint(run).name == "step-00000005"
    assert len(lookalikes) == 7 and all(
        f"{name} is not a checkpoint and is passed over: " in caplog.text for name in lookalikes
    )
    trainer(config(run, epochs=2, keep=1)).fit()
    left = sorted(path.name for path in (run / "checkpoints").iterdir())
    assert left == sorted([*lookalikes, "step-00000010"])


@pytest.mark.parametrize("absent", ["state.json", "model.safetensors"])
def test_a_path_with_the_name_of_a_later_checkpoint_is_refused_before_the_first_step(absent, run):
    (run / "checkpoints" / "step-00000005" / absent).unlink()
    before = sorted(run.rglob("*"))
    message = f"step-00000005 is not a checkpoint: it has no {absent}( and no folder model)?; .*moved away"
    with pytest.raises(ckpt.CheckpointError, match=message):
        trainer(config(run, epochs=2)).fit()
    assert sorted(run.rglob("*")) == before
    (run / "checkpoints" / "step-00000005").rename(run / "damaged")
    trainer(config(run, epochs=2)).fit()
    assert ckpt.latest_checkpoint(run).name == "step-00000010"


def test_a_checkpoint_that_cannot_be_read_is_never_removed_nor_counted(run, caplog):
    folder = run / "checkpoints"
    (folder / "step-00000004" / "state.json").write_text("{")
    shutil.copytree(folder / "step-00000005", folder / "step-00000099")
    state, groups = {"step": 6, "config": {"model": {}}}, {"model": {"x": torch.ones(1)}}
    ckpt.write_checkpoint(run, 6, groups, state, keep=1)
    assert [path.name for path in ckpt.checkpoints(run)] == ["step-00000004", "step-00000006", "step-00000099"]
    assert "step-00000004/state.json: cannot be read" in caplog.text and "it is kept" in caplog.text


def test_a_new_checkpoint_is_kept_beside_later_ones_of_another_run(run):
    state, groups = {"step": 2, "config": {"model": {}}}, {"model": {"x": torch.ones(1)}}
    ckpt.write_checkpoint(run, 2, groups, state, keep=1)
    assert [path.name for path in ckpt.checkpoints(run)] == ["step-00000002", "step-00000005"]


def test_another_file_in_the_place_of_a_checkpoint_is_an_error_and_stays(tmp_path):
    place = tmp_path / "checkpoints" / "step-00000001"
    place.mkdir(parents=True)
    (place / "precious.txt").touch()
    with pytest.raises(ckpt.CheckpointError, match="step-00000001: could not be written"):
        ckpt.write_checkpoint(tmp_path, 1, {"model": {}}, {"step": 1}, keep=1)
    assert [path.name for path in place.iterdir()] == ["precious.txt"]


@pytest.mark.parametrize(
    "values, message",
    [
        ({"world": 10**12}, "'world' is 1000000000000, expected at least 1 and at most 100000"),  # it filled the memory
        ({"world": 0}, "'world' is 0, expected at least 1"),
        ({"replaced": -5}, "'replaced' is -5, expected at least 0"),
        ({"best": {"step": 4, "value": "x"}}, "best: 'value' is \"x\", expected a number"),
        ({"best": {"step": 4}}, "best: there is no 'value', expected a number"),
        ({"scaler": {"scale": "x"}}, "scaler: 'scale' is \"x\", expected a number"),
    ],
    ids=str,
)
def test_numbers_that_no_run_writes_are_refused(values, message, run):
    ckpt.update_state(ckpt.newest_checkpoint(run), **values)
    with pytest.raises(ckpt.CheckpointError, match=message):
        restore(run)


@pytest.mark.parametrize("files", [[1], {"model.safetensors": 3}, None], ids=str)
def test_checksums_of_another_form_are_refused(files, run):
    newest = ckpt.newest_checkpoint(run)
    state = json.loads((newest / "state.json").read_text())
    del state["sha256"]
    (newest / "state.json").write_text(sealed(state | {"files": files}))
    with pytest.raises(ckpt.CheckpointError, match=r"state.json: 'files' is .*, expected the SHA-256 of each file"):
        restore(run)


def test_a_missing_best_checkpoint_is_named(run):
    state = {"step": 6, "best": {"step": 3, "value": 1.0}, "config": {"model": {}}}
    ckpt.write_checkpoint(run, 6, {"model": {"x": torch.ones(1)}}, state, keep=9)
    with pytest.raises(
        ckpt.CheckpointError, match="step-00000003: there is no such checkpoint, but .*step-00000006 says"
    ):
        ckpt.chosen_checkpoint(run)
