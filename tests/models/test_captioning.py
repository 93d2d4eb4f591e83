"""Captions are compared with all possible texts of a tiny vocabulary."""

from itertools import product

import pytest
import torch
from helpers.tiny import tiny_model

from stgt.config import LossConfig
from stgt.models.captioning import beam_captions, sample_captions

END = 2


def make(**qformer):
    model = tiny_model(qformer=qformer)
    for parameter in model.qformer.parameters():
        if parameter.ndim > 1:  # larger weights than BERT's initial ones, so words depend on the video
            torch.nn.init.normal_(parameter, std=0.3)
    return model


@pytest.fixture
def model():
    return make(vocab_size=6, bos_token_id=5).eval()


def tokens_of(n=4):
    """Made-up tokens of a tower. They differ more between videos than those of a random tower."""
    return torch.randn(n, 2, 17, 16, generator=torch.Generator().manual_seed(3))


@pytest.fixture
def embeds(model):
    with torch.no_grad():
        return model.encode_video(tokens=tokens_of()).embeds


@torch.inference_mode()
def log_probability(model, embeds, words):
    """The log-probability of one text about one video, word by word."""
    ids = torch.tensor([[END, *words]])
    logits = model.generate_logits(embeds, ids, torch.ones_like(ids))[0].log_softmax(-1)
    return sum(logits[place, word].item() for place, word in enumerate(words))


def texts(length):
    """All texts of at most `length` tokens. A text ends with END or at the length."""
    words = [word for word in range(6) if word != END]
    for n in range(1, length + 1):
        yield from product(words, repeat=n) if n == length else ((*text, END) for text in product(words, repeat=n))


def stripped(row):
    return [word for word in row.tolist() if word != END]


@pytest.mark.parametrize("penalty", [0.0, 1.0])
def test_enough_beams_find_the_best_of_all_texts(model, embeds, penalty):
    found = beam_captions(model, embeds, end=END, beams=6**3, max_length=3, length_penalty=penalty)
    for row, embed in zip(found, embeds, strict=True):
        candidates = [text for text in texts(3) if len(text) <= 3]
        scores = {t: log_probability(model, embed[None], t) / len(t) ** penalty for t in candidates}
        assert stripped(row) == [word for word in max(scores, key=scores.get) if word != END]


def test_one_beam_is_greedy(model, embeds):
    found = beam_captions(model, embeds, end=END, beams=1, max_length=5)
    for row, embed in zip(found, embeds, strict=True):
        ids = torch.tensor([[END]])
        for place, word in enumerate(row.tolist()):
            logits = model.generate_logits(embed[None], ids, torch.ones_like(ids))[0, -1]
            if place == 0:
                logits[END] = -torch.inf
            assert word == logits.argmax()
            if word == END:
                break
            ids = torch.cat([ids, torch.tensor([[word]])], 1)


@pytest.mark.parametrize("beams", [1, 3])
def test_captions_of_a_batch_equal_those_of_each_video_alone(model, embeds, beams):
    together = beam_captions(model, embeds, end=END, beams=beams, max_length=6)
    for row, embed in zip(together, embeds, strict=True):
        assert stripped(row) == stripped(beam_captions(model, embed[None], end=END, beams=beams, max_length=6)[0])


def test_lengths_stay_within_their_limits(model, embeds):
    assert beam_captions(model, embeds, end=END, max_length=4).shape[1] <= 4
    assert all(len(stripped(row)) >= 3 for row in beam_captions(model, embeds, end=END, max_length=5, min_length=3))
    assert all(len(stripped(row)) >= 3 for row in sample_captions(model, embeds, end=END, max_length=5, min_length=3))


@pytest.mark.parametrize(("longest", "expected"), [(8, 7), (16, 15), (2, 1), (64, 30)])
def test_by_default_a_caption_reads_no_position_that_training_does_not_reach(longest, expected):
    """A text of training has at most `longest` tokens, and the first of them is the begin token."""
    model = make(max_text_length=longest, max_positions=max(longest, 16)).eval()
    embeds = model.encode_video(tokens=tokens_of()).embeds
    without_end = dict(end=END, min_length=100)
    assert beam_captions(model, embeds, **without_end).shape[1] == expected
    assert sample_captions(model, embeds, **without_end).shape[1] == expected
    assert beam_captions(model, embeds, **without_end, max_length=16).shape[1] == 16


def test_nucleus_sampling_draws_with_the_models_probabilities_inside_the_nucleus(model, embeds):
    one, n, top_p = embeds[:1], 4000, 0.8
    ids = torch.tensor([[END]])
    logits = model.generate_logits(one, ids, torch.ones_like(ids))[0, -1].detach()
    logits[END] = -torch.inf
    probability, order = logits.softmax(-1).sort(descending=True)
    size = int((probability.cumsum(0) < top_p).sum()) + 1
    assert 1 < size < 5
    expected = torch.zeros(6)
    expected[order[:size]] = probability[:size] / probability[:size].sum()
    generator = torch.Generator().manual_seed(0)
    drawn = sample_captions(
        model, one.expand(n, -1, -1), end=END, top_p=top_p, max_length=1, generator=generator
    ).flatten()
    share = torch.bincount(drawn, minlength=6) / n
    assert (share[expected == 0] == 0).all()
    assert (share - expected).abs().max() < 4 * 0.5 / n**0.5


def test_a_tiny_nucleus_is_greedy_and_a_seed_repeats_the_result(model, embeds):
    greedy = beam_captions(model, embeds, end=END, beams=1, max_length=5)
    for tiny in (1e-6, 1e-300):  # the second one is 0 in float32
        sampled = sample_captions(model, embeds, end=END, top_p=tiny, max_length=5)
        assert [stripped(row) for row in sampled] == [stripped(row) for row in greedy]
    first, again, other = (
        sample_captions(model, embeds, end=END, top_p=1.0, max_length=9, generator=torch.Generator().manual_seed(seed))
        for seed in (1, 1, 2)
    )
    assert torch.equal(first, again) and first.tolist() != other.tolist()


def test_a_trained_head_generates_the_captions_of_its_training():
    model, batch = make().train(), {"tokens": tokens_of()}
    ids = torch.tensor([[1, 7, 8, 2], [1, 9, 2, 0], [1, 8, 7, 2], [1, 10, 9, 2]])
    batch |= {"input_ids": ids, "attention_mask": (ids != 0).long()}
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    for _ in range(120):
        optimizer.zero_grad()
        model(batch, LossConfig(alignment_weight=0.0, vtm_weight=0.0, vtg_smoothing=0.0))["loss"].backward()
        optimizer.step()
    embeds = model.eval().encode_video(tokens=batch["tokens"]).embeds
    assert [stripped(row) for row in beam_captions(model, embeds, end=2)] == [[7, 8], [9], [8, 7], [10, 9]]


def test_errors_name_the_bad_argument(model, embeds):
    for options, message in [
        (dict(beams=0), "beams is 0, expected at least 1"),
        (dict(max_length=0), "max_length is 0, expected at least 1"),
        (dict(max_length=17), "max_length is 17, expected at most max_positions=16 of the model"),
    ]:
        with pytest.raises(ValueError, match=message):
            beam_captions(model, embeds, end=END, **options)
    with pytest.raises(ValueError, match="max_length is 17, expected at most max_positions=16"):
        sample_captions(model, embeds, end=END, max_length=17)
    for top_p in (0.0, 1.5, float("nan")):
        with pytest.raises(ValueError, match="top_p is .*, expected a probability"):
            sample_captions(model, embeds, end=END, top_p=top_p)
