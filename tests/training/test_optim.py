"""The learning rate follows its schedule, and only matrices decay."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from stgt.config import OptimConfig
from stgt.training.optim import learning_rate, make_optimizer

CONFIG = OptimConfig(lr=1e-3, min_lr=1e-5, warmup_steps=10, weight_decay=0.05)


def test_schedule_at_its_corners():
    assert learning_rate(0, 101, CONFIG) == pytest.approx(1e-4)
    assert learning_rate(9, 101, CONFIG) == pytest.approx(1e-3)
    assert learning_rate(10, 101, CONFIG) == pytest.approx(1e-3)
    assert learning_rate(55, 101, CONFIG) == pytest.approx((1e-3 + 1e-5) / 2)
    assert learning_rate(100, 101, CONFIG) == pytest.approx(1e-5)
    assert learning_rate(11, 12, CONFIG) == pytest.approx(1e-5)


@given(total=st.integers(1, 300), warmup=st.integers(0, 50))
def test_schedule_rises_then_falls_within_its_bounds(total, warmup):
    config = OptimConfig(lr=1e-3, min_lr=1e-5, warmup_steps=warmup)
    rates = [learning_rate(step, total, config) for step in range(total)]
    assert all(0 < rate <= 1e-3 for rate in rates)
    assert rates[:warmup] == sorted(rates[:warmup])
    assert rates[warmup:] == sorted(rates[warmup:], reverse=True)
    if total > warmup + 1:
        assert rates[-1] == pytest.approx(1e-5)


def test_only_matrices_decay_and_frozen_parameters_stay_out():
    model = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), nn.Linear(4, 4))
    model.scale = nn.Parameter(torch.tensor(1.0))
    model[2].requires_grad_(False)
    decay, plain = make_optimizer(model.parameters(), CONFIG).param_groups
    assert decay["weight_decay"] == 0.05 and plain["weight_decay"] == 0.0
    assert [p.shape for p in decay["params"]] == [(4, 4)]
    assert sorted(p.ndim for p in plain["params"]) == [0, 1, 1, 1]
    assert decay["betas"] == (0.9, 0.98)


def test_a_frozen_model_is_refused():
    with pytest.raises(ValueError, match="none requires a gradient"):
        make_optimizer(nn.Linear(2, 2).requires_grad_(False).parameters(), CONFIG)


@pytest.mark.parametrize(
    ("field", "value"),
    [("lr", 0.0), ("lr", float("nan")), ("min_lr", 1.0), ("betas", (0.9, 1.0)), ("clip_norm", 0.0), ("accumulate", 0)],
)
def test_settings_out_of_range_are_named(field, value):
    with pytest.raises(ValueError, match=f"OptimConfig.{field} is"):
        OptimConfig(**{field: value})
