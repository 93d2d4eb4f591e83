"""Both directions, with and without re-ranking, against a plain sort of every query's gallery."""

import statistics

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from stgt.evaluation.retrieval import (
    Texts,
    Videos,
    encode_texts,
    encode_videos,
    format_figures,
    match_scores,
    retrieval_figures,
)


class Oracle(nn.Module):
    """A model that reads its answers off two tables: `embeds` and `input_ids` carry the indices of video and text."""

    def __init__(self, similarity, logits):
        super().__init__()
        self.device_of = nn.Parameter(torch.zeros(()))
        self.table, self.logits = similarity, logits

    def similarity(self, queries, texts):
        return self.table

    def match(self, embeds, input_ids, attention_mask):
        matched = self.logits[embeds[:, 0, 0].long(), input_ids[:, 0]]
        return torch.stack([torch.zeros_like(matched), matched], dim=1)


def task(similarity, logits):
    videos, texts = similarity.shape
    indices = torch.arange(videos, dtype=torch.float32)[:, None, None]
    ids = torch.arange(texts)[:, None]
    return (
        Oracle(similarity, logits),
        Videos(indices, torch.zeros(videos, 1, 1)),
        Texts(ids, torch.ones_like(ids), torch.zeros(texts, 1)),
    )


@st.composite
def cases(draw):
    videos = draw(st.integers(1, 6))
    owner = [*range(videos), *draw(st.lists(st.integers(0, videos - 1), max_size=6))]
    values = st.sampled_from([0.0, 0.125, 0.25, 0.5])  # exact in float32, and tied often
    tables = [
        torch.tensor(draw(st.lists(values, min_size=videos * len(owner), max_size=videos * len(owner))))
        for _ in range(2)
    ]
    similarity, logits = (table.view(videos, len(owner)) for table in tables)
    return similarity, logits, owner, draw(st.integers(0, 9)), draw(st.sampled_from(["softmax", "logit"]))


def plain_ranks(similarity, matched, owner, k, by_text):
    """Sort (tier, score) per query in plain Python; among equals, what is wrong goes first."""
    found = []
    for query in range(len(owner) if by_text else len(similarity)):
        items = range(len(similarity) if by_text else len(owner))
        pair = [(item, query) if by_text else (query, item) for item in items]
        right = [owner[t] == v for v, t in pair]
        best = sorted(items, key=lambda i: (-similarity[pair[i]].item(), i))[:k]
        keys = [
            (1, (similarity[p] + matched[p]).item()) if i in best else (0, similarity[p].item())
            for i, p in enumerate(pair)
        ]
        order = sorted(items, key=lambda i: (-keys[i][0], -keys[i][1], right[i]))
        found.append(1 + next(place for place, i in enumerate(order) if right[i]))
    return found


def summary(ranks):
    recall = [100 * sum(r <= k for r in ranks) / len(ranks) for k in (1, 5, 10)]
    return [*recall, sum(recall) / 3, statistics.median(ranks), statistics.fmean(ranks)]


@settings(deadline=None)
@given(cases())
def test_figures_are_those_of_a_plain_sort(case):
    similarity, logits, owner, k, kind = case
    model, videos, texts = task(similarity, logits)
    figures = retrieval_figures(model, videos, texts, owner, k_test=k, kind=kind)
    matched = logits if kind == "logit" else torch.stack([torch.zeros_like(logits), logits], -1).softmax(-1)[..., 1]
    for direction, by_text in (("text_to_video", True), ("video_to_text", False)):
        vtc = plain_ranks(similarity, matched, owner, 0, by_text)
        assert list(figures[direction]["vtc"].values()) == pytest.approx(summary(vtc))
        assert ("reranked" in figures[direction]) == (k > 0)
        if k:
            reranked = plain_ranks(similarity, matched, owner, k, by_text)
            assert list(figures[direction]["reranked"].values()) == pytest.approx(summary(reranked))


def test_reranking_cannot_lift_what_is_not_on_the_short_list():
    similarity = torch.tensor([[0.9], [0.8], [0.1]])
    model, videos, texts = task(similarity, torch.tensor([[0.0], [5.0], [9.0]]))
    figures = retrieval_figures(model, videos, Texts(*(t.expand(3, 1) for t in texts)), [0, 1, 2], k_test=0)
    assert figures["text_to_video"]["vtc"]["MeanR"] == 2
    model.table = similarity.expand(3, 3)
    texts = Texts(torch.zeros(3, 1, dtype=torch.long), torch.ones(3, 1), torch.zeros(3, 1))
    figures = retrieval_figures(model, videos, texts, [0, 1, 2], k_test=2)["text_to_video"]
    # Every text ranks video 1 before 0 once re-ranked; video 2, whose logit is highest, stays third.
    assert figures["reranked"]["R@1"] == pytest.approx(100 / 3) and figures["reranked"]["MeanR"] == 2


def test_softmax_is_of_both_logits():
    model, videos, texts = task(torch.zeros(1, 1), torch.tensor([[2.0]]))
    pairs = torch.tensor([[0, 0]])
    assert match_scores(model, videos, texts, pairs).item() == pytest.approx(torch.sigmoid(torch.tensor(2.0)).item())
    assert match_scores(model, videos, texts, pairs, kind="logit").item() == 2.0


def test_batches_do_not_change_what_is_encoded():
    class Encoder(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(()))

        def encode_video(self, video=None, tokens=None):
            x = video if tokens is None else tokens
            return type("Features", (), {"embeds": x.mean((1, 3)), "queries": x.mean(2)})

        def encode_text(self, input_ids, attention_mask):
            return (input_ids * attention_mask).float()

    model = Encoder()
    x = torch.rand(5, 2, 3, 4)
    whole = encode_videos(model, [{"tokens": x}])
    parts = encode_videos(model, [{"video": x[:2]}, {"video": x[2:]}])
    assert all(torch.equal(a, b) for a, b in zip(whole, parts, strict=True))
    ids, mask = torch.arange(10).view(5, 2), torch.tensor([[1, 0]]).expand(5, 2)
    assert torch.equal(encode_texts(model, ids, mask, batch_size=2).features, (ids * mask).float())


@pytest.mark.parametrize(
    ("owner", "k_test", "message"),
    [([0], 1, "owner has 1 entries"), ([0, 0], 1, r"no text belongs to videos \[1\]"), ([0, 1], -1, "k_test is -1")],
)
def test_what_cannot_be_evaluated_is_refused(owner, k_test, message):
    model, videos, texts = task(torch.zeros(2, 2), torch.zeros(2, 2))
    with pytest.raises(ValueError, match=message):
        retrieval_figures(model, videos, texts, owner, k_test=k_test)


def test_the_table_names_every_figure():
    model, videos, texts = task(torch.eye(4), torch.zeros(4, 4))
    table = format_figures(retrieval_figures(model, videos, texts, [0, 1, 2, 3]))
    assert "text to video, reranked" in table and "MedR" in table and table.count("100.0") == 16
