"""A run with a global batch goes on with another number of processes, and after one of its processes was lost."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers import standin
from helpers.commands import train_retrieval
from helpers.processes import in_processes, stgt_in_processes

from stgt import checkpoint as ckpt
from stgt.distributed import start_world
from stgt.training.log import read_log
from stgt.training.trainer import own_batch

PROGRAM = Path(__file__).parents[1] / "helpers" / "standin.py"
OPTIONS = ["--model.graph.dropout", 0, "--model.qformer.dropout", 0, "--epochs", 4, "--log-every", 1, "--keep", 9]


@pytest.fixture(scope="module")
def whole(clips, tmp_path_factory):
    """The folder of a run of two processes with eight steps."""
    out = tmp_path_factory.mktemp("elastic") / "run"
    stgt_in_processes(2, *train_retrieval(clips, out, *OPTIONS, "--global-batch", 4))
    return out


@pytest.mark.parametrize("processes", [1, 4])
def test_another_number_of_processes_goes_on_with_the_same_losses(processes, whole, clips, tmp_path):
    out = tmp_path / "run"
    shutil.copytree(whole, out)
    for step in (6, 8):
        shutil.rmtree(out / "checkpoints" / f"step-{step:08d}")
    stgt_in_processes(processes, *train_retrieval(clips, out, *OPTIONS, "--global-batch", 4))
    records, resumed = read_log(whole), read_log(out)
    assert [r["step"] for r in records] == [r["step"] for r in resumed] == list(range(1, 9))
    for part in ("loss", "csal", "vtm", "vtg", "lr"):
        expected = [record[part] for record in records[3:]]
        assert [record[part] for record in resumed[3:]] == pytest.approx(expected, rel=1e-6), part
    state = ckpt.read_state(ckpt.latest_checkpoint(out))
    assert (state["world"], state["global_batch"]) == (processes, 4)


def train_standin(rank, out):
    standin.trainer(standin.config(out, global_batch=10, log_every=1), start_world("cpu")).fit()


def test_torchrun_starts_again_after_a_process_was_killed_and_the_run_ends_with_the_same_bits(tmp_path):
    in_processes(2, train_standin, tmp_path / "whole")
    torchrun = ["-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone", "--max-restarts=1"]
    # The second process dies in step 7, and the run goes on from the checkpoint of step 4.
    settings = ["global_batch=10", "log_every=1", "kill=worker:6"]
    command = [sys.executable, *torchrun, str(PROGRAM), str(tmp_path / "killed"), *settings]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(PROGRAM.parents[2])}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0 and "failed (exitcode: -9)" in done.stderr, done.stderr
    runs = [tmp_path / "whole", tmp_path / "killed"]
    assert [r["loss"] for r in read_log(runs[0])] == [r["loss"] for r in read_log(runs[1])]
    for group in ("model", "optimizer", "random"):
        one, other = (ckpt.read_tensors(run / "checkpoints" / "step-00000008", group) for run in runs)
        assert one.keys() == other.keys()
        assert [name for name in one if not torch.equal(one[name], other[name])] == []


def test_the_global_batch_has_to_be_shared_equally():
    config = standin.config("run", global_batch=10)
    assert [own_batch(config, processes) for processes in (1, 2, 5)] == [10, 5, 2]
    with pytest.raises(ValueError, match="global_batch is 10, expected a multiple of the 4 processes"):
        own_batch(config, 4)


def test_a_run_without_a_global_batch_can_get_one_of_its_own_size(tmp_path):
    standin.trainer(standin.config(tmp_path, epochs=1)).fit()
    with pytest.raises(ValueError, match="batches had 5 pairs in all, and now have 10; go on with --global-batch 5"):
        standin.trainer(standin.config(tmp_path, global_batch=10)).fit()
    standin.trainer(standin.config(tmp_path, global_batch=5, batch_size=1)).fit()
    assert ckpt.read_state(ckpt.latest_checkpoint(tmp_path))["step"] == 20


def test_the_batch_of_an_older_checkpoint_is_that_of_all_its_processes(tmp_path, monkeypatch):
    standin.trainer(standin.config(tmp_path)).fit()
    state = ckpt.read_state(ckpt.latest_checkpoint(tmp_path)) | {"world": 2}
    del state["global_batch"]
    monkeypatch.setattr(ckpt, "read_state", lambda _: state)
    with pytest.raises(ValueError, match="batches had 10 pairs in all, and now have 5; go on with --global-batch 10"):
        standin.trainer(standin.config(tmp_path)).fit()
