"""Question runs whose language model is trained with its weights shared out, and their checkpoints in shards."""

import json
import random
import re
import shutil

import pytest
import torch
from helpers.commands import run_cli, train_questions
from helpers.processes import stgt_in_processes
from helpers.runs import differing

from stgt import checkpoint as ckpt
from stgt.data.annotations import load_questions, save_questions
from stgt.data.shapes import render_shapes
from stgt.files import file_hash
from stgt.integrity import sealed
from stgt.runs import load_run
from stgt.training.log import read_log


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Simulated clips, of which three are for validation."""
    folder = render_shapes(tmp_path_factory.mktemp("data") / "shapes", train=9, test=2, size=32, frames=6)
    questions = load_questions(folder / "qa_train.json")
    held = set(sorted({question.video for question in questions})[:3])
    save_questions([question for question in questions if question.video in held], folder / "qa_val.json")
    save_questions([question for question in questions if question.video not in held], folder / "qa_train.json")
    return folder


def words(clips, out, *more):
    tuned = ["--model.language.tune", "all", "--model.language.dtype", "float32", "--model.graph.dropout", 0]
    tuned += ["--model.qformer.dropout", 0, "--loss.alignment", "vtc", "--vtc-epochs", 0]
    # Without clipping, the norm of the gradient changes nothing. It is a sum, which has another order with shares. The
    # optimizer updates shares of a multiple of 16 values by the same instructions as whole tensors.
    tuned += ["--optim.clip-norm", "None", "--model.qformer.hidden", 32, "--model.language.hidden", 32]
    sizes = ["--global-batch", 4, "--log-every", 1, "--save-every", 2, "--data.workers", 0]
    return train_questions(clips, out, *tuned, *sizes, "--data.val", clips / "qa_val.json", *more)


@pytest.fixture(scope="module")
def whole(clips, tmp_path_factory):
    """The folder of a run of two processes that hold whole weights."""
    out = tmp_path_factory.mktemp("runs") / "whole"
    stgt_in_processes(2, *words(clips, out))
    return out


@pytest.fixture(scope="module")
def sharded(clips, tmp_path_factory):
    """The folder of the same run, in which the two processes share out the weights."""
    out = tmp_path_factory.mktemp("runs") / "sharded"
    stgt_in_processes(2, *words(clips, out, "--sharded"))
    return out


@pytest.fixture
def stopped(sharded, tmp_path):
    """A copy of the run with shared weights that ended half way."""
    out = shutil.copytree(sharded, tmp_path / "run")
    found = ckpt.checkpoints(out)
    for path in found[len(found) // 2 :]:
        shutil.rmtree(path)
    return out


def assert_same_losses(run, other):
    """The losses agree to 1e-6, which docs/training.md promises for any number of processes."""
    records, others = ([record for record in read_log(out) if "loss" in record] for out in (run, other))
    assert [record["step"] for record in records] == [record["step"] for record in others] and len(records) > 4
    for part in ("loss", "grad_norm"):
        assert [r[part] for r in records] == pytest.approx([r[part] for r in others], rel=1e-6), part
    figures = [[record["val"] for record in read_log(out) if "val" in record] for out in (run, other)]
    assert figures[0] == figures[1] != []


def test_two_processes_that_share_out_a_language_model_have_the_bits_of_ddp(whole, sharded):
    assert_same_losses(sharded, whole)
    losses, others = ([record.get("loss") for record in read_log(out)] for out in (whole, sharded))
    assert losses == others and differing(whole, sharded) == []
    one, other = (load_run(out, "cpu").model.state_dict() for out in (whole, sharded))  # without a process group
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
    tied = [name for name in one if one[name].data_ptr() == one["language.lm_head.weight"].data_ptr()]
    assert len(tied) == 2


def test_a_sharded_checkpoint_is_safetensors_and_json_only(sharded):
    path = ckpt.latest_checkpoint(sharded)
    names = sorted(file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file())
    shards = [f"shard-{number:05d}-model-00001-of-00001.safetensors" for number in (1, 2)]
    assert names == [
        *(f"{group}/{shard}" for group in ("model", "optimizer") for shard in shards),
        "random.safetensors",
        "state.json",
    ]
    sizes = [(path / "optimizer" / shard).stat().st_size for shard in shards]
    assert max(sizes) < 1.2 * min(sizes)


def test_the_same_number_of_processes_goes_on_with_the_same_bits(stopped, sharded, clips):
    stgt_in_processes(2, *words(clips, stopped, "--sharded"))
    assert differing(sharded, stopped) == []


def test_a_checkpoint_of_two_processes_is_loaded_by_one(stopped, sharded, clips, monkeypatch):
    assert run_cli(monkeypatch, *words(clips, stopped)) == 0
    assert_same_losses(stopped, sharded)
    assert (ckpt.latest_checkpoint(stopped) / "model.safetensors").is_file()


def test_a_checkpoint_of_two_processes_is_loaded_by_four(stopped, sharded, clips):
    stgt_in_processes(4, *words(clips, stopped, "--sharded"))
    assert_same_losses(stopped, sharded)
    assert len(list((ckpt.latest_checkpoint(stopped) / "model").iterdir())) == 4


def read_both(run):
    path = ckpt.latest_checkpoint(run)
    return {group: ckpt.read_tensors(path, group) for group in ("model", "optimizer")}


def test_a_damaged_or_missing_shard_is_refused(stopped):
    read_both(stopped)
    for file in sorted(ckpt.latest_checkpoint(stopped).glob("*/*.safetensors")):
        content, place = file.read_bytes(), random.Random(file.name).randrange(file.stat().st_size)
        name = re.escape(f"{file.parent.name}/{file.name}")
        file.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        with pytest.raises(ckpt.CheckpointError, match=f"{name}: cannot be read: .* was changed or damaged"):
            read_both(stopped)
        file.unlink()
        with pytest.raises(ckpt.CheckpointError, match=f"{name}: cannot be read: there is no such file"):
            read_both(stopped)
        file.write_bytes(content)
    read_both(stopped)


def test_a_shard_that_the_checkpoint_does_not_list_leaves_a_hole_that_is_noticed(stopped):
    path = ckpt.latest_checkpoint(stopped)
    state = json.loads((path / "state.json").read_text())
    del state["sha256"], state["files"]["model/shard-00001-model-00001-of-00001.safetensors"]
    (path / "state.json").write_text(sealed(state))
    with pytest.raises(ckpt.CheckpointError, match="/model: cannot be read: rows 0 to .* are missing"):
        load_run(stopped, "cpu")


def test_a_folder_without_weights_is_passed_over(stopped, caplog):
    last = ckpt.latest_checkpoint(stopped)
    before = file_hash(last / "state.json")
    shutil.rmtree(last / "model")
    assert ckpt.latest_checkpoint(stopped) != last and file_hash(last / "state.json") == before
    assert (
        f"{last.name} is not a checkpoint and is passed over: it has no model.safetensors and no folder" in caplog.text
    )
