import pytest
import torch
import torch.nn.functional as F
from helpers.reads import HostReads
from helpers.tiny import tiny_batch, tiny_model

from stgt import losses
from stgt.config import LossConfig, OptimConfig
from stgt.data.words import predicted_places
from stgt.models.bert import Projections
from stgt.models.stgt import STGT
from stgt.training.optim import make_optimizer


@pytest.mark.parametrize("frames", [1, 2, 7])
def test_images_and_videos_of_any_length(frames):
    model, batch = tiny_model().eval(), tiny_batch(frames=frames)
    video = model.encode_video(batch["video"])
    assert video.embeds.shape == (4, 17 if frames == 1 else 9 * frames, 16)
    assert video.queries.shape == (4, 4, 8)
    torch.testing.assert_close(video.queries.norm(dim=-1), torch.ones(4, 4))
    assert video.stats["edges_per_token"] > 0
    text = model.encode_text(batch["input_ids"], batch["attention_mask"])
    torch.testing.assert_close(text.norm(dim=-1), torch.ones(4))
    assert model.similarity(video.queries, text[:3]).shape == (4, 3)
    texts = batch["input_ids"], batch["attention_mask"]
    assert model.match(video.embeds, *texts).shape == (4, 2)
    assert model.generate_logits(video.embeds, *texts).shape == (4, 6, 30)
    assert model(batch, LossConfig())["loss"].isfinite()


def test_tokens_give_the_same_result_as_their_video():
    model, batch = tiny_model().eval(), tiny_batch()
    tokens = model.visual_tokens(batch["video"])
    assert torch.equal(model.encode_video(tokens=tokens).queries, model.encode_video(batch["video"]).queries)
    words = {key: batch[key] for key in ("input_ids", "attention_mask")}
    losses_ = [
        model(words | part, LossConfig(), torch.Generator().manual_seed(0))["loss"]
        for part in ({"video": batch["video"]}, {"tokens": tokens})
    ]
    assert torch.equal(*losses_)


def test_a_model_without_its_tower_takes_tokens():
    whole, bare, batch = tiny_model().eval(), tiny_model(tower=False).eval(), tiny_batch()
    state = {name: tensor for name, tensor in whole.state_dict().items() if not name.startswith("vision.")}
    bare.load_state_dict(state)
    tokens = whole.visual_tokens(batch["video"])
    # Caches hold bfloat16.
    half = bare.encode_video(tokens=tokens.bfloat16())
    assert torch.equal(half.queries, whole.encode_video(tokens=tokens.bfloat16().float()).queries)
    with pytest.raises(ValueError, match="tower=False, expected tokens"):
        bare.encode_video(batch["video"])


@pytest.mark.parametrize("given, got", [({}, "neither"), ({"video": torch.zeros(1), "tokens": torch.zeros(1)}, "both")])
def test_either_video_or_tokens(given, got):
    with pytest.raises(ValueError, match=f"either video or tokens, got {got}"):
        tiny_model().encode_video(**given)


def test_one_text_per_video():
    batch = tiny_batch()
    batch |= {key: batch[key][:3] for key in ("input_ids", "attention_mask")}
    with pytest.raises(ValueError, match="3 texts for 4 videos"):
        tiny_model()(batch, LossConfig())


def test_the_loss_is_the_sum_of_its_weighted_parts():
    model, batch = tiny_model().eval(), tiny_batch()

    def run(**settings):
        return model(batch, LossConfig(**settings), torch.Generator().manual_seed(0))

    whole = run()
    assert set(whole) == {"loss", "vtc", "vtm", "vtg", "edges_per_token"}
    torch.testing.assert_close(whole["loss"], whole["vtc"] + whole["vtm"] + whole["vtg"])
    assert all(value.ndim == 0 and value.requires_grad == (name == "loss") for name, value in whole.items())
    second = run(alignment="csal", alignment_weight=0.5, vtm_weight=2.0, vtg_weight=0.0)
    assert set(second) == {"loss", "csal", "vtm", "edges_per_token"}
    torch.testing.assert_close(second["loss"], 0.5 * second["csal"] + 2 * second["vtm"])
    torch.testing.assert_close(second["vtm"], whole["vtm"])
    torch.testing.assert_close(run(alignment_weight=0.0, vtm_weight=0.0)["loss"], whole["vtg"])


def matching_loss(model, video, ids, mask, wrong_text, wrong_video):
    """The matching loss of a batch in which each pair has one wrong text and one wrong video."""
    logits = [
        model.match(video.embeds, ids, mask),
        model.match(video.embeds[wrong_video], ids, mask),
        model.match(video.embeds, ids[wrong_text], mask[wrong_text]),
    ]
    return losses.vtm_loss(torch.cat(logits), len(ids)).detach()


def test_the_loss_follows_the_public_parts():
    model, batch = tiny_model().eval(), tiny_batch()
    ids, mask = batch["input_ids"], batch["attention_mask"]
    out = model(batch, LossConfig(alignment="csal"), torch.Generator().manual_seed(0))
    video, text = model.encode_video(batch["video"]), model.encode_text(ids, mask)
    v2t = model.similarity(video.queries, text) / model.temp
    targets = losses.csal_targets(video.queries, text, video.queries, text)
    torch.testing.assert_close(out["csal"], losses.csal_loss(v2t, v2t.T, targets).detach())
    logits = model.generate_logits(video.embeds, ids, mask)
    predicted = mask[:, 1:] != 0
    vtg = losses.vtg_loss(logits[:, :-1][predicted], ids[:, 1:][predicted], losses.predicted_words(mask))
    torch.testing.assert_close(out["vtg"], vtg.detach())
    draws = torch.rand(2, 4, generator=torch.Generator().manual_seed(0))
    wrong_text, wrong_video = losses.hard_negatives(v2t, draws[0]), losses.hard_negatives(v2t.T, draws[1])
    torch.testing.assert_close(out["vtm"], matching_loss(model, video, ids, mask, wrong_text, wrong_video))


def test_a_step_computes_what_it_reads_of_a_video_once(monkeypatch):
    model, batch = tiny_model(), tiny_batch()
    crossed = [layer.crossattention.attention for layer in model.qformer.bert.encoder["layer"] if layer.crossattention]
    found, compute = [], Projections.keys_values

    def counted(self, x):
        found.extend([len(x)] if self in crossed else [])
        return compute(self, x)

    monkeypatch.setattr(Projections, "keys_values", counted)
    model(batch, LossConfig())["loss"].backward()
    assert crossed and found == [4] * len(crossed)


def test_only_words_are_predicted(monkeypatch):
    model, batch = tiny_model(), tiny_batch()
    sizes, compute = [], model.qformer.word_logits
    monkeypatch.setattr(model.qformer, "word_logits", lambda x: sizes.append(x.shape[:-1]) or compute(x))
    model(batch, LossConfig())
    assert sizes == [(int(batch["attention_mask"][:, 1:].sum()),)]
    assert sizes[0][0] < batch["attention_mask"][:, 1:].numel()  # The batch has padding.


@pytest.mark.parametrize("alignment", ["vtc", "csal"])
def test_a_step_with_known_words_reads_no_value(alignment):
    model, batch = tiny_model(), tiny_batch()
    optimizer = make_optimizer(model.parameters(), OptimConfig())

    def step(batch):
        with HostReads() as reads:
            out = model(batch, LossConfig(alignment=alignment), torch.Generator().manual_seed(0))
            out["loss"].backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
        return reads.names

    assert step(batch | {"predicted": predicted_places(batch["attention_mask"])}) == []
    assert step(batch) == ["nonzero"]


def test_known_words_change_nothing():
    model, batch = tiny_model(), tiny_batch()
    known = batch | {"predicted": predicted_places(batch["attention_mask"])}
    first, second = (model(b, LossConfig(), torch.Generator().manual_seed(0)) for b in (batch, known))
    assert all(torch.equal(value, second[name]) for name, value in first.items())


def test_more_padding_changes_no_loss():
    model, batch = tiny_model().eval(), tiny_batch()
    padded = batch | {key: F.pad(batch[key], (0, 2)) for key in ("input_ids", "attention_mask")}
    first, second = (model(b, LossConfig(), torch.Generator().manual_seed(0)) for b in (batch, padded))
    for name, value in first.items():
        torch.testing.assert_close(value, second[name], rtol=1e-5, atol=1e-6)


def twice(batch):
    """A batch in which the third video repeats the first, and the fourth text repeats the second."""
    batch["video"][2] = batch["video"][0]
    for key in ("input_ids", "attention_mask"):
        batch[key][3] = batch[key][1]
    return batch | {"video_index": torch.tensor([7, 4, 7, 5])}


@pytest.mark.parametrize("alignment", ["vtc", "csal"])
def test_a_video_that_occurs_twice_in_a_batch_is_not_its_own_negative(alignment):
    model, batch = tiny_model().eval(), twice(tiny_batch())
    model.temp.data.fill_(0.01)
    for parameter in model.qformer.parameters():  # small initial weights would make all pairs similar
        if parameter.ndim > 1:
            parameter.data.normal_(std=0.5)
    ids, mask = batch["input_ids"], batch["attention_mask"]
    assert not torch.equal(ids[0], ids[2])
    out = model(batch, LossConfig(alignment=alignment, multi_positive=True), torch.Generator().manual_seed(0))
    same = torch.tensor([[1, 0, 1, 0], [0, 1, 0, 1], [1, 0, 1, 0], [0, 1, 0, 1]]).bool()
    video, text = model.encode_video(batch["video"]), model.encode_text(ids, mask)
    v2t = model.similarity(video.queries, text) / model.temp
    if alignment == "vtc":
        expected = losses.vtc_loss(v2t, v2t.T, same=same)
    else:
        targets = losses.csal_targets(video.queries, text, video.queries, text, same=same)
        expected = losses.csal_loss(v2t, v2t.T, targets)
    torch.testing.assert_close(out[alignment], expected.detach())
    draws = torch.rand(2, 4, generator=torch.Generator().manual_seed(0))
    wrong_text = losses.hard_negatives(v2t, draws[0], same=same)
    wrong_video = losses.hard_negatives(v2t.T, draws[1], same=same)
    torch.testing.assert_close(out["vtm"], matching_loss(model, video, ids, mask, wrong_text, wrong_video))
    released = model(batch, LossConfig(alignment=alignment), torch.Generator().manual_seed(0))
    assert not torch.allclose(released["loss"], out["loss"], rtol=1e-5, atol=0)


def test_multi_positive_needs_the_numbers_of_the_videos():
    with pytest.raises(ValueError, match="batch has no 'video_index', expected a number for each video"):
        tiny_model()(tiny_batch(), LossConfig(multi_positive=True))


def test_detached_targets_change_gradients_only():
    batch, results = tiny_batch(), []
    for detach_target in (False, True):
        model = tiny_model().eval()
        out = model(batch, LossConfig(alignment="csal", vtm_weight=0.0, vtg_weight=0.0, detach_target=detach_target))
        out["loss"].backward()
        results.append((out["loss"].detach(), model.text_proj.weight.grad))
    assert torch.equal(results[0][0], results[1][0])
    assert not torch.allclose(results[0][1], results[1][1])


@pytest.mark.parametrize("alignment", ["vtc", "csal"])
@pytest.mark.parametrize("switches", [{}, {"attention": "dense"}, {"kind": "cross_frame"}, {"kind": "none"}], ids=str)
def test_every_trained_parameter_gets_a_gradient(alignment, switches):
    model = tiny_model(graph=switches, vision={"open_blocks": 1}).train()
    model(tiny_batch(), LossConfig(alignment=alignment))["loss"].backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name
    assert model.temp.grad.item() != 0


def test_a_few_steps_fit_a_batch():
    model, batch = tiny_model(vision={"open_blocks": -1}).train(), tiny_batch()
    optimizer = torch.optim.AdamW(model.parameters(), 2e-3)
    values = []
    for _ in range(80):
        loss = model(batch, LossConfig(vtc_smoothing=0.0, vtg_smoothing=0.0))["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        values.append(loss.item())
    assert values[-1] < 0.6 * values[0]


@pytest.mark.parametrize("vision", [{}, {"open_blocks": 1}, {"dtype": "bfloat16"}], ids=str)
@pytest.mark.parametrize("alignment", ["vtc", "csal"])
def test_bfloat16_autocast_end_to_end(alignment, vision):
    model, batch = tiny_model(vision=vision).train(), tiny_batch()
    with torch.autocast("cpu", torch.bfloat16):
        half = model(batch, LossConfig(alignment=alignment), torch.Generator().manual_seed(0))
        assert model.encode_video(batch["video"]).queries.dtype == torch.float32
    assert half["loss"].dtype == torch.float32
    half["loss"].backward()
    exact = model(batch, LossConfig(alignment=alignment), torch.Generator().manual_seed(0))
    assert abs(half["loss"] - exact["loss"]) < 0.05 * exact["loss"]
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad.isfinite().all() and parameter.grad.dtype == torch.float32, name


def test_dropout_is_off_in_evaluation():
    model, batch = tiny_model(graph={"dropout": 0.2}, qformer={"dropout": 0.2}), tiny_batch()
    run = lambda: model(batch, LossConfig(), torch.Generator().manual_seed(0))["loss"]  # noqa: E731
    model.eval()
    assert torch.equal(run(), run())
    model.train()
    assert not torch.equal(run(), run())


def test_a_single_pair_cannot_be_matched_against_others():
    with pytest.raises(ValueError, match="at least 2 pairs"):
        tiny_model()(tiny_batch(n=1), LossConfig())


def test_the_same_seed_gives_the_same_model():
    a, b, c = (tiny_model(seed=seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert not torch.equal(a["qformer.query_tokens"], c["qformer.query_tokens"])
    assert isinstance(tiny_model(), STGT)
