"""Values that stay on a GPU are looked at before anything is kept, and then give the same error as on a CPU."""

import pytest
import torch
from helpers import standin
from helpers.standin import Items, weights

from stgt import checkpoint as ckpt
from stgt.distributed import World
from stgt.integrity import NonFiniteError
from stgt.training.finite import FiniteValues
from stgt.training.log import read_log


def values(run, at_once):
    finite = FiniteValues(World(0, 1, torch.device("cpu")), run, "--init starts another run")
    assert finite.at_once
    finite.at_once = at_once
    return finite


def test_a_cpu_looks_at_once_and_a_gpu_does_not(tmp_path):
    assert not FiniteValues(World(0, 1, torch.device("cuda")), tmp_path, "").at_once
    ckpt.write_checkpoint(tmp_path, 0, {"model": {}}, {}, keep=1)
    with pytest.raises(NonFiniteError, match="loss is inf at step 3"):
        values(tmp_path, at_once=True).note("loss", torch.tensor(float("inf")), 3, ["a.mp4"])
    late = values(tmp_path, at_once=False)
    late.note("loss", torch.tensor(1.0), 3, ["a.mp4"])
    late.require()
    late.note("loss", torch.tensor(2.0), 4, ["b.mp4"])
    late.note("gradient norm", torch.tensor(float("nan")), 4, ["b.mp4", "c.mp4"])
    late.note("loss", torch.tensor(float("inf")), 5, ["d.mp4"])
    with pytest.raises(NonFiniteError, match=r"gradient norm is nan at step 4, on these files:\n  b.mp4\n  c.mp4\n"):
        late.require()


def test_nothing_is_kept_of_a_step_whose_value_is_read_late(tmp_path):
    clip = standin.trainer(standin.config(tmp_path)).sampler.batch(4)[0][1]  # It is first seen in the fifth step.
    at_once, late = (standin.trainer(standin.config(tmp_path / name), items=Items(broken=(clip,))) for name in "ab")
    late.finite.at_once = False
    messages = []
    for run in (at_once, late):
        with pytest.raises(NonFiniteError, match="loss is nan at step 5, on these files") as caught:
            run.fit()
        messages.append(str(caught.value).replace(str(run.run), "RUN"))
    assert messages[0] == messages[1] and f"clip{clip}.mp4" in messages[0]
    assert (at_once.step, late.step) == (4, 6)  # A record was due after the sixth step.
    for run in (at_once, late):
        assert [record["step"] for record in read_log(run.run)] == [3]
        assert ckpt.read_state(ckpt.latest_checkpoint(run.run))["step"] == 4
    kept = weights(at_once.run)
    for name, tensor in weights(late.run).items():
        assert torch.equal(tensor, kept[name]) and tensor.isfinite().all()


def test_values_are_read_where_something_is_kept_and_nowhere_else(tmp_path, monkeypatch):
    read, require = [], FiniteValues.require
    monkeypatch.setattr(FiniteValues, "require", lambda self: read.append(run.step) or require(self))
    run = standin.trainer(standin.config(tmp_path))
    run.finite.at_once = False
    run.fit()
    # 20 steps, a record every three, and a checkpoint every four, before the first and at the end.
    assert sorted(set(read)) == [0, 3, 4, 6, 8, 9, 12, 15, 16, 18, 20]
