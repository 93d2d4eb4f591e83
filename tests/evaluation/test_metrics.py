"""Ranks and recalls are compared with a search through every order and with numbers computed by hand."""

import math
import statistics

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from stgt.evaluation.metrics import ranks, recall_figures, shortlist


@st.composite
def tasks(draw):
    shape = draw(st.integers(1, 5)), draw(st.integers(1, 7))
    # There are few distinct values, so there are many ties.
    scores = draw(arrays(np.float32, shape, elements=st.sampled_from([-1.0, 0.0, 0.25, 0.5])))
    tier = draw(arrays(np.int64, shape, elements=st.integers(0, 1)))
    relevant = draw(arrays(np.bool_, shape))
    relevant[np.arange(shape[0]), [draw(st.integers(0, shape[1] - 1)) for _ in range(shape[0])]] = True
    return torch.from_numpy(scores), torch.from_numpy(relevant), torch.from_numpy(tier)


@given(tasks())
def test_rank_is_the_place_behind_every_irrelevant_item_that_is_no_worse(task):
    scores, relevant, tier = task
    got = ranks(scores, relevant, tier).tolist()
    for q in range(len(scores)):
        items = [((tier[q, g].item(), scores[q, g].item()), not relevant[q, g].item()) for g in range(scores.shape[1])]
        # Sort by key, the best first. Among equal keys, irrelevant items come first.
        items.sort(key=lambda item: (-item[0][0], -item[0][1], not item[1]))
        seen = 0
        for _, irrelevant in items:
            if not irrelevant:
                break
            seen += 1
        assert got[q] == seen + 1


@given(tasks(), st.integers(1, 9))
def test_shortlist_holds_the_best_first(task, k):
    scores, _, _ = task
    chosen = shortlist(scores, k)
    assert chosen.shape == (len(scores), min(k, scores.shape[1]))
    for row, columns in zip(scores.tolist(), chosen.tolist(), strict=True):
        assert columns == sorted(range(len(row)), key=lambda g: (-row[g], g))[:k]


@given(st.lists(st.integers(1, 50), min_size=1, max_size=30))
def test_figures_against_plain_python(rank):
    figures = recall_figures(torch.tensor(rank))
    recall = [100 * sum(r <= k for r in rank) / len(rank) for k in (1, 5, 10)]
    expected = [*recall, sum(recall) / 3, statistics.median(rank), statistics.fmean(rank)]
    assert list(figures) == ["R@1", "R@5", "R@10", "mean", "MedR", "MeanR"]
    assert all(math.isclose(a, b) for a, b in zip(figures.values(), expected, strict=True))


def test_equal_scores_get_the_worst_rank():
    assert ranks(torch.zeros(2, 100), torch.eye(100).bool()[:2]).tolist() == [100, 100]


def test_the_best_of_several_relevant_items_counts():
    scores = torch.tensor([[0.9, 0.1, 0.8, 0.7]])
    assert ranks(scores, torch.tensor([[False, True, False, True]])).tolist() == [3]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_scores_that_are_not_finite_are_refused(bad):
    with pytest.raises(ValueError, match="scores: NaN or infinite"):
        ranks(torch.tensor([[0.0, bad]]), torch.tensor([[True, False]]))


def test_a_query_without_an_answer_is_refused():
    with pytest.raises(ValueError, match="relevant: a query without"):
        ranks(torch.zeros(1, 2), torch.zeros(1, 2).bool())
