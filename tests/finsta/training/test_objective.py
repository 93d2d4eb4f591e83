"""Each loss reaches the weights that it should, with the right learning rates."""

from pathlib import Path

import pytest
import torch
from helpers.hosts import KINDS, tiny_host
from helpers.scenes import FRAMES, scene, times_of

from stgt.finsta.config import FinstaConfig
from stgt.finsta.training.config import PostTraining
from stgt.finsta.training.data import Clips, labels_of
from stgt.finsta.training.objective import HostAlone, WithLabels, make_objective

SMALL = FinstaConfig(width=16, heads=2, layers=1, cells=2, dropout=0.0)


def settings(**changed):
    return PostTraining(run=Path("run"), graphs=Path("graphs.jsonl"), out=Path("out"), finsta=SMALL, **changed)


def batch(frames=2):
    clips = [scene(number) for number in range(3)]
    videos = torch.randn(3, frames, 3, 32, 32, generator=torch.Generator().manual_seed(2))
    return Clips(videos, times_of(clips)[:, :: FRAMES // frames][:, :frames], torch.arange(3), clips)


def with_gradient(module):
    return {
        name for name, parameter in module.named_parameters() if parameter.grad is not None and parameter.grad.any()
    }


@pytest.mark.parametrize("kind", KINDS)
def test_the_first_stage_trains_finsta_alone_and_the_second_the_host_as_well(kind):
    host, clips = tiny_host(kind), batch()
    objective = make_objective(settings(), host, ())
    objective.align(host, clips)["loss"].backward()
    assert with_gradient(objective) and not with_gradient(host.model)
    assert "finsta.word.weight" not in with_gradient(objective)  # distillation belongs to the second stage
    objective.zero_grad()
    objective.tune(host, clips)["loss"].backward()
    assert "finsta.word.weight" in with_gradient(objective) and with_gradient(host.model)


@pytest.mark.parametrize("part", ["osc", "ptc", "distillation"])
def test_each_part_of_finsta_reaches_the_host(part):
    host, clips = tiny_host("stgt"), batch()
    objective = make_objective(settings(), host, ())
    objective.tune(host, clips)[part].backward()
    changed = with_gradient(host.model)
    assert any(name.startswith("graph.") for name in changed) and any(
        name.startswith("qformer.bert") for name in changed
    )


def test_the_weights_of_the_parts_scale_them():
    host, clips = tiny_host("clip"), batch()
    weights = dict(osc_weight=2.0, ptc_weight=0.5, distillation_weight=3.0)
    objective = make_objective(settings(**weights), host, ())
    values = objective.tune(host, clips)
    expected = values["host"] + 2 * values["osc"] + 0.5 * values["ptc"] + 3 * values["distillation"]
    assert torch.allclose(values["loss"], expected)


def test_the_loss_of_the_first_stage_is_the_sum_of_the_contrasts():
    values = make_objective(settings(), host := tiny_host("clip"), ()).align(host, batch())
    assert values.keys() == {"loss", "vtc", "osc", "ptc"}
    assert torch.allclose(values["loss"], values["vtc"] + values["osc"] + values["ptc"])


def test_the_labels_are_found_in_the_mean_state_of_the_video():
    host, clips = tiny_host("clip"), batch()
    vocabulary = sorted(set().union(*map(labels_of, clips.graphs)))
    objective = make_objective(settings(control="labels", labels_weight=2.0), host, vocabulary)
    assert isinstance(objective, WithLabels)
    values = objective.tune(host, clips)
    mean = host.states(clips.videos, clips.texts, clips.times).video.mean((1, 2))
    probability = objective.head(mean).sigmoid()
    truth = torch.tensor([[label in labels_of(clip) for label in vocabulary] for clip in clips.graphs])
    assert torch.allclose(values["labels"], -torch.where(truth, probability, 1 - probability).log().mean(), rtol=1e-4)
    assert torch.allclose(values["loss"], values["host"] + 2 * values["labels"])


def test_the_control_of_steps_has_the_host_s_loss_alone():
    host, clips = tiny_host("clip"), batch()
    objective = make_objective(settings(control="steps"), host, ())
    assert isinstance(objective, HostAlone) and not list(objective.parameters()) and not objective.aligns
    loss, _ = host.step(clips.videos, clips.texts, clips.times, clips.numbers)
    assert torch.equal(objective.tune(host, clips)["loss"], loss)
