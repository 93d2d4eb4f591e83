"""The whole Finsta model: what it returns, where gradients go, which switches change what, and odd batches."""

import dataclasses

import pytest
import torch
from helpers.scenes import FRAMES, TINY, WIDTHS, batch_of, host_states, run, scene, tiny_finsta, word_vectors

from stgt.finsta.config import FinstaConfig
from stgt.finsta.graphs.graph import ClipGraphs, Frame, VideoGraph
from stgt.finsta.hosts.host import Widths
from stgt_kernels.testing import assert_close

CLIPS = [scene(seed, things) for seed, things in enumerate((1, 2, 3, 2))]


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


def gradients(model, clips, of):
    """The gradient that each part of the host's states gets from one loss, as tensors of the parts' shapes."""
    graphs, states = batch_of(clips, model.config), host_states(clips, torch.float64)
    labels = word_vectors(graphs.labels, dtype=torch.float64)
    parts = {"text": states.text, "video": states.video, "cross": states.cross, "labels": labels}
    for part in parts.values():
        part.requires_grad_()
    output = model(states, graphs, labels)
    found = torch.autograd.grad(
        {**output.losses, "distillation": output.distillation}[of], parts.values(), allow_unused=True
    )
    return {name: torch.zeros_like(part) if grad is None else grad for (name, part), grad in zip(parts.items(), found)}  # noqa: B905


def test_every_loss_has_a_gradient_for_the_states_of_the_host_that_it_depends_on():
    model = tiny_finsta()
    spoken = torch.zeros(len(CLIPS), 24, dtype=torch.bool)
    for own, clip in zip(spoken, CLIPS, strict=True):
        words = clip.text.split(" ")
        own[: len(words)] = torch.tensor([word != "is" for word in words])
    for loss, reached in {
        "osc": {"text", "video", "labels"},
        "ptc": {"text", "video", "labels"},
        "vtc": {"text", "video", "labels"},
        "distillation": {"text", "video", "cross"},
    }.items():
        found = gradients(model, CLIPS, loss)
        assert {name for name, grad in found.items() if grad.any()} == reached
        assert torch.equal(found["text"].any(2), spoken)  # the words of nodes, and no others
        if "cross" in reached:
            assert torch.equal(found["cross"].any(2), spoken)


def test_gradients_are_those_of_finite_differences():
    model = tiny_finsta(clamp=None)
    graphs, states = batch_of(CLIPS[:3], model.config), host_states(CLIPS[:3], torch.float64)
    labels = word_vectors(graphs.labels, dtype=torch.float64)
    parts = [states.text, states.video, states.cross]
    ways = [torch.randn(part.shape, generator=torch.Generator().manual_seed(9), dtype=torch.float64) for part in parts]

    def loss(step):
        text, video, cross = (part + step * way for part, way in zip(parts, ways, strict=True))
        output = model(dataclasses.replace(states, text=text, video=video, cross=cross), graphs, labels)
        return sum(output.losses.values())  # distillation holds nodes fixed, so its gradient is no difference quotient

    step = torch.zeros((), dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(loss(step), step)
    difference = (loss(1e-5) - loss(-1e-5)) / 2e-5
    torch.testing.assert_close(slope, difference, rtol=1e-6, atol=1e-8)


def shuffled(clip, order):
    """The same clip with its text's nodes, its edges, and each frame's objects and relations in another order."""
    nodes = [clip.tsg.nodes[i % len(clip.tsg.nodes)] for i in order if i < len(clip.tsg.nodes)]
    frames = [Frame(f.t, f.objects[::-1], f.relations[::-1]) for f in clip.dsg.frames]
    tsg = dataclasses.replace(clip.tsg, nodes=tuple(nodes), edges=clip.tsg.edges[::-1])
    return dataclasses.replace(clip, tsg=tsg, dsg=VideoGraph(tuple(frames)))


def test_the_order_of_nodes_changes_nothing():
    order = torch.randperm(40, generator=torch.Generator().manual_seed(0)).tolist()
    model = tiny_finsta()
    one, other = run(model, CLIPS), run(model, [shuffled(clip, order) for clip in CLIPS])
    assert numbers(one) == pytest.approx(numbers(other), rel=1e-9)
    for a, b in zip(one.grounding, other.grounding, strict=True):
        assert a.tracks == b.tracks and a.objects.keys() == b.objects.keys()
        for node, scores in a.objects.items():
            torch.testing.assert_close(scores, b.objects[node])
        for node, found in a.predicates.items():
            again = b.predicates[node]
            assert (found.tracks, found.start, found.end) == (again.tracks, again.start, again.end)


def test_the_order_of_clips_changes_nothing():
    model = tiny_finsta()
    one, other = run(model, CLIPS), run(model, CLIPS[::-1])
    assert numbers(one) == pytest.approx(numbers(other), rel=1e-9)
    for a, b in zip(one.grounding, reversed(other.grounding), strict=True):
        for node, scores in a.objects.items():
            torch.testing.assert_close(scores, b.objects[node])


def test_the_states_of_a_clip_do_not_depend_on_the_other_clips():
    model = tiny_finsta()
    together, alone = run(model, CLIPS), run(model, CLIPS[2:3])
    torch.testing.assert_close(together.object_nodes[together.object_index[:, 0] == 2], alone.object_nodes)


@pytest.mark.parametrize("name", ["osc", "ptc"])
def test_a_loss_that_is_switched_off_is_missing_and_all_else_stays(name):
    whole, without = numbers(run(tiny_finsta(), CLIPS)), numbers(run(tiny_finsta(**{name: False}), CLIPS))
    whole.pop(name)
    assert without == whole


def test_without_stgd_the_motion_layers_are_missing_and_no_other_parameter():
    whole, without = tiny_finsta(), tiny_finsta(stgd=False)
    missing = whole.state_dict().keys() - without.state_dict().keys()
    assert missing == {name for name in whole.state_dict() if ".motions." in name} and missing
    assert without.state_dict().keys() < whole.state_dict().keys()


def test_without_labels_the_nodes_of_videos_do_not_know_their_words():
    whole, without = tiny_finsta(), tiny_finsta(labels=False)
    assert whole.state_dict().keys() - without.state_dict().keys() == {"nodes.label.weight"}
    frames = [Frame(f.t, tuple(dataclasses.replace(o, label="plane") for o in f.objects)) for f in CLIPS[1].dsg.frames]
    plain = [dataclasses.replace(CLIPS[1], dsg=VideoGraph(tuple(Frame(f.t, f.objects) for f in CLIPS[1].dsg.frames)))]
    renamed = [dataclasses.replace(CLIPS[1], dsg=VideoGraph(tuple(frames)))]
    for model, same in ((whole, False), (without, True)):
        one, other = run(model, plain), run(model, renamed)
        assert torch.allclose(one.object_nodes, other.object_nodes, rtol=1e-9, atol=1e-12) == same


@pytest.mark.parametrize("name", ["temporal_coref", "adverbs", "crossmodal_coref"])
def test_switches_of_nodes_and_edges_keep_the_parameters_and_change_the_graphs_they_name(name):
    whole, without = tiny_finsta(), tiny_finsta(**{name: False})
    assert whole.state_dict().keys() == without.state_dict().keys()
    without.load_state_dict(whole.state_dict())
    one, other = run(whole, CLIPS), run(without, CLIPS)
    nodes = torch.allclose(one.object_nodes, other.object_nodes, rtol=1e-9, atol=1e-12)
    assert nodes == (name != "temporal_coref")
    same = numbers(one)["osc"] == pytest.approx(numbers(other)["osc"], rel=1e-9)
    assert same == (name == "crossmodal_coref")  # OSC compares graphs that have no edges between text and video
    assert numbers(one)["distillation"] != numbers(other)["distillation"]


def test_edges_between_text_and_video_carry_states_only_between_the_same_things():
    """Two clips whose object is unlike every track give the same holistic graph as without the edges."""
    clip = scene(3, 1)
    frames = [Frame(f.t, tuple(dataclasses.replace(o, label="plane") for o in f.objects)) for f in clip.dsg.frames]
    unlike = dataclasses.replace(clip, dsg=VideoGraph(tuple(frames)))
    whole, without = tiny_finsta(), tiny_finsta(crossmodal_coref=False)
    without.load_state_dict(whole.state_dict())
    assert numbers(run(whole, [unlike])) == pytest.approx(numbers(run(without, [unlike])), rel=1e-12)
    assert abs(numbers(run(whole, [clip]))["distillation"] - numbers(run(without, [clip]))["distillation"]) > 1e-6


@pytest.mark.parametrize("edge_stream", [False, True])
def test_every_parameter_is_used(edge_stream):
    model = tiny_finsta(edge_stream=edge_stream)
    output = run(model, CLIPS)
    (sum(output.losses.values()) + output.distillation).backward()
    assert all(p.grad is not None and p.grad.any() for p in model.parameters())


def test_edges_can_have_states_of_their_own():
    plain, stream = tiny_finsta(), tiny_finsta(edge_stream=True)
    more = stream.state_dict().keys() - plain.state_dict().keys()
    assert more and all(".edge_" in name for name in more)
    stream.load_state_dict(plain.state_dict(), strict=False)
    assert numbers(run(plain, CLIPS))["osc"] != numbers(run(stream, CLIPS))["osc"]


def test_half_precision_by_autocast_gives_float32_losses_that_are_closer_than_those_of_a_model_in_half_precision():
    exact, plain, model = run(tiny_finsta(), CLIPS), run(tiny_finsta().bfloat16(), CLIPS), tiny_finsta().float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = run(model, CLIPS)
    assert all(loss.dtype == torch.float32 for loss in output.losses.values())
    losses = (torch.tensor([*numbers(one).values()], dtype=torch.float64) for one in (output, plain, exact))
    assert_close(*losses, dtype=torch.bfloat16)
    sum(output.losses.values()).backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def test_states_and_labels_that_do_not_fit_the_graphs_are_refused():
    model = tiny_finsta()
    graphs, states = batch_of(CLIPS, model.config), host_states(CLIPS, torch.float64)
    labels = word_vectors(graphs.labels, dtype=torch.float64)
    for given, vectors, message in [
        (states, labels[1:], r"labels is \(\d+, 12\), but the graphs and the host's widths need \(\d+, 12\)"),
        (
            dataclasses.replace(states, text=states.text[:, 1:]),
            labels,
            r"states.text is \(4, 23, 12\), .* \(4, 24, 12\)",
        ),
        (dataclasses.replace(states, grid=(3, 3)), labels, r"states.video is \(4, 6, 6, 10\), .* \(4, 6, 9, 10\)"),
        (dataclasses.replace(states, cross=states.text), labels, r"states.cross is \(4, 24, 12\), .* \(4, 24, 14\)"),
    ]:
        with pytest.raises(ValueError, match=message):
            model(given, graphs, vectors)


def test_a_batch_can_be_moved_to_another_device():
    moved = batch_of(CLIPS, FinstaConfig()).to("meta")

    def tensors(value):
        if isinstance(value, torch.Tensor):
            yield value
        elif dataclasses.is_dataclass(value):
            for field in dataclasses.fields(value):
                yield from tensors(getattr(value, field.name))

    found = list(tensors(moved))
    assert len(found) > 50 and all(tensor.device.type == "meta" for tensor in found)


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
