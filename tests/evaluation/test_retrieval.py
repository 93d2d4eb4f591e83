"""Both directions, with and without re-ranking, are compared with a plain sort of every query's items."""

import gc
import statistics

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stgt.data.text import wordings
from stgt.evaluation import retrieval
from stgt.evaluation.retrieval import dual_softmax_figures, format_figures, matching_scores, retrieval_figures


class Table:
    """A matching function that reads its scores from a table (V, M) and notes the pairs."""

    def __init__(self, scores):
        self.scores, self.asked = scores, []

    def __call__(self, pairs):
        self.asked.append(pairs)
        return self.scores[pairs[:, 0], pairs[:, 1]]


@st.composite
def cases(draw):
    videos = draw(st.integers(1, 6))
    owner = [*range(videos), *draw(st.lists(st.integers(0, videos - 1), max_size=6))]
    values = st.sampled_from([0.0, 0.125, 0.25, 0.5])  # these numbers are exact in float32 and often equal
    tables = [
        torch.tensor(draw(st.lists(values, min_size=videos * len(owner), max_size=videos * len(owner))))
        for _ in range(2)
    ]
    similarity, logits = (table.view(videos, len(owner)) for table in tables)
    wording = draw(st.none() | st.lists(st.integers(0, 4), min_size=len(owner), max_size=len(owner)))
    return (
        similarity,
        logits,
        owner,
        wording,
        draw(st.integers(0, 9)),
        draw(st.sampled_from(["softmax", "logit", "odds"])),
    )


def plain_ranks(similarity, matched, owner, wording, k, by_text):
    """Sort by (tier, score) for each query in plain Python. Among equals, wrong items come first."""
    found, wording = [], wording or list(range(len(owner)))
    said = {(word, video) for word, video in zip(wording, owner, strict=True)}
    for query in range(len(owner) if by_text else len(similarity)):
        items = range(len(similarity) if by_text else len(owner))
        pair = [(item, query) if by_text else (query, item) for item in items]
        right = [(wording[t], v) in said for v, t in pair]
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
def test_figures_equal_those_of_a_plain_sort(case):
    similarity, logits, owner, wording, k, kind = case
    matched = matching_scores(torch.stack([torch.zeros_like(logits), logits], -1).view(-1, 2), kind, 0.07).view_as(
        logits
    )
    match = Table(matched)
    figures = retrieval_figures(similarity, owner, match, [k, 0, 1], wording)
    for direction, by_text in (("text_to_video", True), ("video_to_text", False)):
        for count in figures:
            expected = plain_ranks(similarity, matched, owner, wording, count, by_text)
            assert list(figures[count][direction].values()) == pytest.approx(summary(expected))
    (pairs,) = match.asked  # each pair occurs once, in the order of videos
    asked = [tuple(pair) for pair in pairs.tolist()]
    assert asked == sorted(set(asked))


def test_a_sentence_of_two_videos_is_right_for_both():
    """Videos 0 and 2 have the same sentence, and video 1 has another one."""
    wording = wordings(["A man sings.", "a dog runs", "a man   sings!"])
    assert wording == [0, 1, 0]
    similarity = torch.tensor([[0.5, 0.1, 0.5], [0.2, 0.9, 0.2], [0.8, 0.3, 0.8]])
    owner, none = [0, 1, 2], Table(similarity)
    strict, shared = (retrieval_figures(similarity, owner, none, [0], words)[0] for words in (None, wording))
    # Text 0: video 2 comes before its own video 0. Video 0: texts 0 and 2 tie, and a tie counts against it.
    assert strict["text_to_video"]["MeanR"] == pytest.approx((2 + 1 + 1) / 3)
    assert strict["video_to_text"]["MeanR"] == pytest.approx((2 + 1 + 2) / 3)
    for direction in shared.values():
        assert direction["R@1"] == 100 and direction["MeanR"] == 1
    with pytest.raises(ValueError, match="wording has 2 entries, expected one for each of 3 texts"):
        retrieval_figures(similarity, owner, none, [0], [0, 1])


def test_many_queries_are_ranked_like_few(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    similarity, scores = torch.rand(2, 30, 45, generator=generator)
    owner, wording = [*range(30), *range(15)], [number % 40 for number in range(45)]
    whole = retrieval_figures(similarity, owner, Table(scores), [0, 4, 32], wording)
    monkeypatch.setattr("stgt.evaluation.retrieval._ROWS", 7)
    assert retrieval_figures(similarity, owner, Table(scores), [0, 4, 32], wording) == whole


def test_reranking_cannot_raise_an_item_that_is_not_on_the_short_list():
    similarity, logits = torch.tensor([[0.9], [0.8], [0.1]]).expand(3, 3), torch.tensor([[0.0], [5.0], [9.0]])
    figures = retrieval_figures(similarity, [0, 1, 2], Table(logits.expand(3, 3)), [0, 2])
    assert figures[0]["text_to_video"]["MeanR"] == 2
    # After re-ranking, every text ranks video 1 before 0. Video 2 has the highest score, but stays third.
    reranked = figures[2]["text_to_video"]
    assert reranked["R@1"] == pytest.approx(100 / 3) and reranked["MeanR"] == 2


def test_nothing_is_matched_without_candidates():
    match = Table(torch.zeros(2, 2))
    retrieval_figures(torch.eye(2), [0, 1], match, [0])
    assert match.asked == []


def test_softmax_uses_both_logits():
    logits = torch.tensor([[0.0, 2.0]])
    assert matching_scores(logits, "softmax", 0.1).item() == pytest.approx(torch.sigmoid(torch.tensor(2.0)).item())
    assert matching_scores(logits, "logit", 0.1).item() == 2.0


def test_odds_use_both_logits_and_the_temperature():
    logits = torch.tensor([[1.0, 3.5], [0.0, -1.0]])
    assert matching_scores(logits, "odds", 0.1).tolist() == pytest.approx([0.25, -0.1])


def test_odds_turn_a_wrong_order_of_similarities_into_that_of_the_probabilities():
    """The matching head is the best possible one for negatives that are drawn by similarity, two for each true pair."""
    generator, temperature = torch.Generator().manual_seed(0), 0.07
    similarity, true = torch.rand(9, 9, generator=generator), torch.rand(9, 9, generator=generator).softmax(0)
    drawn = (similarity / temperature).softmax(0)  # the texts are columns
    matched = (true / (true + 2 * drawn)).log(), (2 * drawn / (true + 2 * drawn)).log()
    scores = similarity + matching_scores(torch.stack(matched[::-1], -1).view(-1, 2), "odds", temperature).view(9, 9)
    assert torch.equal(scores.argsort(0), true.argsort(0))
    assert not torch.equal(similarity.argsort(0), true.argsort(0))


def test_with_odds_a_head_that_has_learned_nothing_changes_nothing():
    similarity, owner = torch.rand(7, 7, generator=torch.Generator().manual_seed(0)), range(7)
    same = matching_scores(torch.tensor([[0.2, -0.5]]).expand(49, 2), "odds", 0.07).view(7, 7)
    figures = retrieval_figures(similarity, owner, Table(same), [0, 7])
    assert figures[7] == figures[0]


@pytest.mark.parametrize(
    ("owner", "count", "message"),
    [
        ([0], 1, "owner has 1 entries"),
        ([0, 0], 1, r"no text belongs to videos \[1\]"),
        ([0, 1], -1, "candidates holds -1"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(owner, count, message):
    with pytest.raises(ValueError, match=message):
        retrieval_figures(torch.zeros(2, 2), owner, Table(torch.zeros(2, 2)), [0, count])


def test_the_table_names_every_figure():
    found = retrieval_figures(torch.eye(4), [0, 1, 2, 3], Table(torch.zeros(4, 4)), [0, 4])
    figures = {way: {"vtc": found[0][way], "reranked": found[4][way]} for way in found[0]}
    table = format_figures(figures)
    assert "text to video, reranked" in table and "MedR" in table and table.count("100.0") == 16


def test_dual_softmax_lowers_a_video_that_every_text_is_like():
    """Video 0 is the most similar to all texts, so similarity alone finds it each time."""
    similarity = torch.tensor([[0.50, 0.50, 0.50], [0.10, 0.45, 0.10], [0.10, 0.10, 0.45]])
    alone = retrieval_figures(similarity, [0, 1, 2], Table(torch.zeros(3, 3)), [0])[0]
    dual = dual_softmax_figures(similarity, 0.05, [0, 1, 2])
    assert alone["text_to_video"]["R@1"] == pytest.approx(100 / 3)
    assert dual["text_to_video"]["R@1"] == dual["video_to_text"]["R@1"] == 100


def test_dual_softmax_holds_the_scores_of_one_direction_at_a_time(monkeypatch):
    similarity, held = torch.rand(40, 50), []
    figures = retrieval._figures

    def counted(*args):
        large = (one for one in gc.get_objects() if type(one) is torch.Tensor and one.dtype == torch.float64)
        held.append(len({one.data_ptr() for one in large if one.numel() == similarity.numel()}))
        return figures(*args)

    monkeypatch.setattr(retrieval, "_figures", counted)
    dual_softmax_figures(similarity, 0.05, [i % 40 for i in range(50)])
    assert held == [1, 1]


def test_dual_softmax_is_the_formula():
    """The ranks are those of similarity times the softmax over queries, here in float64 and by a plain sort."""
    generator = torch.Generator().manual_seed(0)
    similarity, owner = torch.rand(7, 12, generator=generator), [*range(7), 0, 3, 3, 5, 6]
    wording = [*range(11), 4]
    found = dual_softmax_figures(similarity, 1.0, owner, wording)
    for way, dim in (("text_to_video", 1), ("video_to_text", 0)):
        scores = similarity.double() * similarity.double().softmax(dim)
        expected = plain_ranks(scores, torch.zeros(7, 12), owner, wording, 0, dim == 1)
        assert found[way]["MeanR"] == pytest.approx(statistics.mean(expected))
        assert found[way]["R@1"] == pytest.approx(100 * statistics.mean(rank == 1 for rank in expected))
