"""The whole Finsta model: what it returns, where gradients go, which switches change what, and odd batches."""

import dataclasses

import pytest
import torch
from helpers.scenes import FRAMES, TINY, WIDTHS, batch_of, host_states, run, scene, tiny_finsta, word_vectors

from stgt.finsta.config import FinstaConfig
from stgt.finsta.graphs.graph import ClipGraphs, Frame, VideoGraph
from stgt.finsta.hosts.host import Widths

CLIPS = [scene(seed, things) for seed, things in enumerate((1, 2, 3, 2))]
SWITCHES = ("osc", "ptc", "stgd", "temporal_coref", "adverbs", "crossmodal_coref")


def numbers(output):
    return {name: loss.item() for name, loss in {**output.losses, "distillation": output.distillation}.items()}


def test_output_has_losses_groundings_and_nodes_of_every_clip():
    output = run(tiny_finsta(), CLIPS)
    assert output.losses.keys() == {"osc", "ptc", "vtc"}
    assert all(loss.shape == () and 0 < loss.item() < 100 for loss in output.losses.values())
    assert 0 < output.distillation.item() < 6
    assert len(output.grounding) == len(CLIPS)
    for clip, found in zip(CLIPS, output.grounding, strict=True):
        nodes = {node.id: node.kind for node in clip.tsg.nodes}
        assert {i for i, kind in nodes.items() if kind == "object"} == found.objects.keys()
        assert {i for i, kind in nodes.items() if kind == "predicate"} == found.predicates.keys()
        assert found.tracks == tuple(10 + k for k in range(len(found.objects)))
        for scores in found.objects.values():
            assert scores.shape == (len(found.tracks), FRAMES) and (scores.abs() <= 1).all()
        for one in found.predicates.values():
            assert set(one.tracks) <= set(found.tracks) and 0 <= one.start < one.end <= FRAMES
    sightings = [(b, o.track, t) for b, c in enumerate(CLIPS) for t, f in enumerate(c.dsg.frames) for o in f.objects]
    assert output.object_index.tolist() == [list(one) for one in sightings]
    assert output.object_nodes.shape == (len(sightings), TINY["width"])


def test_the_same_input_gives_the_same_bits():
    def once():
        model = tiny_finsta(dropout=0.1).float().train()
        torch.manual_seed(3)
        output = run(model, CLIPS)
        (sum(output.losses.values()) + output.distillation).backward()
        return [
            *output.losses.values(),
            output.distillation,
            *(p.grad for p in model.parameters() if p.grad is not None),
        ]

    for one, again in zip(once(), once(), strict=True):
        assert torch.equal(one, again)


def test_odd_clips_give_finite_losses_and_gradients():
    whole = scene(7)
    no_predicates = dataclasses.replace(
        whole, dsg=VideoGraph(tuple(Frame(f.t, f.objects) for f in whole.dsg.frames)), tsg=None
    )
    half_empty = dataclasses.replace(
        whole, dsg=VideoGraph(tuple(Frame(f.t, () if f.t < 0.6 else f.objects) for f in whole.dsg.frames))
    )
    nothing = ClipGraphs("x.mp4", "", None, None, "parser")
    empty = ClipGraphs("y.mp4", "", None, VideoGraph((Frame(0.0, ()),)), "parser")
    batches = [
        [whole],
        [nothing],
        [empty, nothing],
        [no_predicates],
        [half_empty],
        [dataclasses.replace(whole, dsg=None)],
        [dataclasses.replace(whole, tsg=None), whole],
        [nothing, half_empty, no_predicates, empty, whole],
    ]
    model = tiny_finsta()
    for clips in batches:
        graphs = batch_of(clips, model.config)
        states = host_states(clips, torch.float64)
        for part in (states.text, states.video, states.cross):
            part.requires_grad_()
        output = model(states, graphs, word_vectors(graphs.labels, dtype=torch.float64))
        total = sum(output.losses.values()) + output.distillation
        assert total.isfinite()
        model.zero_grad()
        total.backward()
        grads = [p.grad for p in model.parameters() if p.grad is not None]
        grads += [part.grad for part in (states.text, states.video, states.cross) if part.grad is not None]
        assert grads and all(grad.isfinite().all() for grad in grads)
        assert len(output.grounding) == len(clips)


@pytest.mark.parametrize("name", ["osc", "ptc"])
def test_a_loss_that_is_switched_off_is_missing_and_the_others_stay(name):
    whole, without = numbers(run(tiny_finsta(), CLIPS)), numbers(run(tiny_finsta(**{name: False}), CLIPS))
    whole.pop(name)
    assert without == whole


def test_a_host_without_cross_states_has_no_holistic_graph():
    widths = Widths(WIDTHS.text, WIDTHS.video, None)
    model = tiny_finsta(widths=widths)
    assert model.both is None and model.cross is None
    assert run(model, CLIPS).losses.keys() == {"osc", "ptc", "vtc"}


def test_config_refuses_values_that_make_no_sense():
    for fields, message in [
        (dict(width=20, heads=3), "FinstaConfig.width is 20, expected a multiple of heads=3"),
        (dict(width=256, heads=1), "FinstaConfig.width is 256, expected at most 128 · heads = 128"),
        (dict(tau=0.0), "FinstaConfig.tau is 0.0, expected a positive number"),
        (dict(clamp=-1.0), "FinstaConfig.clamp is -1.0, expected a positive number or None"),
        (dict(rho=2.0), r"FinstaConfig.rho is 2.0, expected a number in \[-1, 1\]"),
    ]:
        with pytest.raises(ValueError, match=message):
            FinstaConfig(**fields)
