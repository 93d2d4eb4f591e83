"""Several processes train together: what their log counts, and what a process draws that joins a run."""

import json
import random

import pytest
import torch
from helpers import standin
from helpers.processes import in_processes

from stgt.distributed import World
from stgt.randomness import seed_everything
from stgt.training.log import RunLog
from stgt.training.trainer import Trainer

CPU = torch.device("cpu")


def config(out, epochs):
    return standin.config(out, epochs=epochs, batch_size=4, global_batch=8)


def counted(rank, out):
    clips, add = [], RunLog.add
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunLog, "add", lambda log, values, count: clips.append(count) or add(log, values, count))
        standin.trainer(config(out / "run", epochs=1), World(rank, 2, CPU)).fit()
    (out / f"{rank}.json").write_text(json.dumps(clips))


def test_the_log_counts_the_clips_of_all_processes(tmp_path):
    in_processes(2, counted, tmp_path)
    assert [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1)] == [[8, 8, 8], []]


def drawn():
    return random.random(), torch.rand(()).item()


def first_draws(rank, out):
    def end(trainer, *_):
        (out / f"{rank}.json").write_text(json.dumps([trainer.step, *drawn()]))
        trainer.step = trainer.total

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "_advance", end)
        standin.trainer(config(out / "run", epochs=2), World(rank, 2, CPU)).fit()


def test_a_process_that_joins_a_run_draws_its_own_numbers(tmp_path):
    standin.trainer(config(tmp_path / "run", epochs=1)).fit()
    left = drawn()  # by the run's next step
    in_processes(2, first_draws, tmp_path)
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    seed_everything(config(tmp_path, epochs=2).seed, 3, 1)
    assert first == [3, *left] and second == [3, *drawn()]
