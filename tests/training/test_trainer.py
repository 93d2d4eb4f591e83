"""The training loop stops, averages and changes its loss when it should."""

import dataclasses

import pytest
import torch
from helpers import standin
from helpers.standin import Items, weights
from torch import nn

from stgt import checkpoint as ckpt
from stgt.config import LossConfig, ModelConfig
from stgt.distributed import World
from stgt.integrity import NonFiniteError
from stgt.training import trainer as trainer_module
from stgt.training.log import read_log
from stgt.training.optim import learning_rate
from stgt.training.trainer import Trainer


class Plain(nn.Module):
    """A model without randomness, whose loss is a mean over pairs."""

    def __init__(self):
        super().__init__()
        self.config = ModelConfig()
        self.line = nn.Linear(4, 1)

    def forward(self, batch, loss):
        return {"loss": self.line(batch["video"]).square().mean()}


class Still(Items):
    def __getitem__(self, i):
        return super().__getitem__(i) | {"video": torch.full((4,), i / 26)}


def plain(config):
    torch.manual_seed(0)
    return Trainer(config, Plain(), Still(), standin.collate, World(0, 1, torch.device("cpu")))


def test_a_loss_that_is_not_a_number_names_its_files_and_keeps_the_last_checkpoint(tmp_path):
    run = standin.trainer(standin.config(tmp_path, save_every=1), items=Items(broken=(7,)))
    with pytest.raises(NonFiniteError, match=r"loss is nan at step \d+, on these files:") as caught:
        run.fit()
    files = [line.strip() for line in str(caught.value).splitlines() if line.endswith(".mp4")]
    assert len(files) == 5 and "clip7.mp4" in files
    assert ckpt.read_state(ckpt.latest_checkpoint(tmp_path))["step"] == run.step
    assert all(torch.isfinite(tensor).all() for tensor in weights(tmp_path).values())
    assert str(ckpt.latest_checkpoint(tmp_path)) in str(caught.value)


def test_there_is_a_checkpoint_even_before_the_first_step(tmp_path):
    run = standin.trainer(standin.config(tmp_path), items=Items(broken=range(26)))
    with pytest.raises(NonFiniteError, match="at step 1"):
        run.fit()
    assert all(torch.isfinite(tensor).all() for tensor in weights(tmp_path).values())


def test_a_gradient_that_is_not_a_number_does_not_reach_the_weights(tmp_path):
    run = plain(standin.config(tmp_path))
    run.model.line.weight.register_hook(lambda gradient: gradient * float("inf"))
    with pytest.raises(NonFiniteError, match="gradient norm is (inf|nan) at step 1"):
        run.fit()
    assert torch.isfinite(run.model.line.weight).all()


def test_gradients_in_fp16_that_are_never_finite_end_the_run(tmp_path):
    run = plain(standin.config(tmp_path, precision="fp16", epochs=20))
    run.model.line.weight.register_hook(lambda gradient: gradient * float("nan"))
    with pytest.raises(NonFiniteError, match="the gradients in fp16 are not finite at step 42,"):
        run.fit()


def test_checkpoints_that_a_killed_run_had_yet_to_remove_are_removed_also_if_it_is_complete(tmp_path):
    plain(standin.config(tmp_path, keep=9)).fit()  # as if it was killed before it removed any
    ckpt.update_state(ckpt.latest_checkpoint(tmp_path), best={"step": 8, "value": 1.0})
    plain(standin.config(tmp_path, keep=1)).fit()
    assert [path.name for path in ckpt.checkpoints(tmp_path)] == ["step-00000008", "step-00000020"]


def test_a_folder_that_is_renamed_meanwhile_is_not_made_again(tmp_path):
    run = plain(standin.config(tmp_path / "run"))

    def rename(*_):
        if run.step == 5:
            (tmp_path / "run").rename(tmp_path / "moved")

    run.optimizer.register_step_pre_hook(rename)
    with pytest.raises(ckpt.CheckpointError, match="step-00000004 is gone, so .*run was removed or renamed while"):
        run.fit()
    assert not (tmp_path / "run").exists()
    (tmp_path / "moved").rename(tmp_path / "run")
    again = plain(standin.config(tmp_path / "run"))
    again.fit()
    assert again.step == 20


def test_a_step_that_ruins_the_weights_leaves_the_checkpoint_before_it(tmp_path):
    run = plain(standin.config(tmp_path, save_every=1, keep=1))
    step = run.optimizer.step

    def ruinous(*args, **kwargs):
        result = step(*args, **kwargs)
        if run.step == 2:
            run.model.line.weight.data[0, 0] = float("inf")  # as after an update that is too large for float32
        return result

    run.optimizer.step = ruinous
    with pytest.raises(NonFiniteError, match=r"model line.weight: NaN or infinite numbers after step 3.*step-00000002"):
        run.fit()
    assert [path.name for path in ckpt.checkpoints(tmp_path)] == ["step-00000002"]
    again = plain(standin.config(tmp_path, save_every=1, keep=1))
    again.fit()
    assert again.step == 20


def test_accumulated_batches_equal_one_large_batch(tmp_path):
    small = plain(standin.config(tmp_path / "a", batch_size=5, accumulate=2))
    large = plain(standin.config(tmp_path / "b", batch_size=10))
    small.sampler.batch = lambda n: large.sampler.batch(n // 2)[5 * (n % 2) :][:5]
    for run in (small, large):
        run.total = 6
        run.fit()
    torch.testing.assert_close(small.model.line.weight, large.model.line.weight, rtol=1e-5, atol=1e-6)


def test_each_step_has_its_learning_rate(tmp_path):
    run = plain(standin.config(tmp_path, log_every=1))
    run.fit()
    expected = [learning_rate(step, run.total, run.config.optim) for step in range(run.total)]
    assert [record["lr"] for record in read_log(tmp_path)] == expected


def test_gradients_are_clipped(tmp_path):
    config = standin.config(tmp_path)
    config.optim = dataclasses.replace(config.optim, clip_norm=1e-4)
    run = plain(config)
    seen = []
    run.optimizer.register_step_pre_hook(lambda *_: seen.append(run.model.line.weight.grad.norm().item()))
    run.fit()
    assert len(seen) == 20 and max(seen) <= 1.001e-4


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_trains(precision, tmp_path):
    run = plain(standin.config(tmp_path, precision=precision, epochs=8))
    run.fit()
    losses = [record["loss"] for record in read_log(tmp_path)]
    assert losses[-1] < 0.7 * losses[0]


def test_the_scaler_is_resumed(tmp_path):
    first = plain(standin.config(tmp_path, precision="fp16"))
    first.scaler.scale(torch.zeros(()))
    first.scaler.update(512.0)
    first.fit()
    second = plain(standin.config(tmp_path, precision="fp16"))
    second.fit()
    assert second.scaler.get_scale() == 512.0 and second.scaler.state_dict() == first.scaler.state_dict()


def test_csal_replaces_vtc_after_its_epochs(tmp_path):
    run = plain(standin.config(tmp_path, loss=LossConfig(alignment="csal"), vtc_epochs=2))
    alignments = []
    forward = run.model.forward
    run.parallel = lambda batch, loss: alignments.append(loss.alignment) or forward(batch, loss)
    run.fit()
    assert alignments == ["vtc"] * 10 + ["csal"] * 10


def test_replaced_videos_are_counted_over_the_whole_run(tmp_path):
    standin.trainer(standin.config(tmp_path)).fit()
    # Clip 3 counts as replaced each time it is drawn. One epoch has 25 of the 26 clips.
    run = standin.trainer(standin.config(tmp_path / "other"))
    drawn = sum(i == 3 for n in range(run.total) for _, i in run.sampler.batch(n))
    assert read_log(tmp_path)[-1]["replaced"] == ckpt.read_state(ckpt.latest_checkpoint(tmp_path))["replaced"] == drawn


def test_the_log_has_the_values_that_the_bar_shows(tmp_path):
    standin.trainer(standin.config(tmp_path)).fit()
    assert {"step", "loss", "vtc", "edges_per_token", "lr", "grad_norm", "epoch", "clips_per_s", "memory_gib"} <= set(
        read_log(tmp_path)[0]
    )
    assert [record["step"] for record in read_log(tmp_path)] == [3, 6, 9, 12, 15, 18, 20]
    assert list((tmp_path / "tensorboard").iterdir())


def test_more_accumulation_than_batches_is_refused(tmp_path):
    with pytest.raises(ValueError, match="optim.accumulate is 21, but the whole run has fewer batches"):
        plain(standin.config(tmp_path, accumulate=21))


def test_a_compiled_model_trains(tmp_path, monkeypatch):
    compiled = []
    monkeypatch.setattr(trainer_module.torch, "compile", lambda model: compiled.append(model) or model)
    run = plain(standin.config(tmp_path, compile=True))
    run.fit()
    assert compiled == [run.model]
