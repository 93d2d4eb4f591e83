"""Search ranks as evaluation does, and keeps its index only as long as what it was made from."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_retrieval import Oracle

from stgt.evaluation.retrieval import Texts, Videos, retrieval_figures
from stgt.evaluation.search import INDEX, indexed_videos, search


def one_caption(similarity, logits):
    count = len(similarity)
    videos = Videos(torch.arange(count).float()[:, None, None], torch.zeros(count, 1, 1))
    text = Texts(torch.zeros(1, 1, dtype=torch.long), torch.ones(1, 1), torch.zeros(1, 1))
    return Oracle(similarity[:, None], logits[:, None]), videos, text


@settings(deadline=None)
@given(st.integers(1, 12), st.integers(0, 14), st.integers(0, 1000))
def test_the_order_is_that_of_evaluation(count, k_test, seed):
    similarity, logits = torch.rand(2, count, generator=torch.Generator().manual_seed(seed))
    model, videos, text = one_caption(similarity, logits)
    hits = search(model, videos, text, top=count, k_test=k_test)
    assert sorted(hit.video for hit in hits) == list(range(count))
    model = Oracle(similarity[:, None].expand(count, count), logits[:, None].expand(count, count))
    texts = Texts(torch.zeros(count, 1, dtype=torch.long), torch.ones(count, 1), torch.zeros(count, 1))
    figures = retrieval_figures(model, videos, texts, list(range(count)), k_test=k_test)["text_to_video"]
    first = sum(place < 5 for place, _ in enumerate(hits)) * 100 / count
    assert figures["reranked" if k_test else "vtc"]["R@5"] == pytest.approx(first)
    best = sorted(range(count), key=lambda v: -similarity[v])
    if k_test == 0:
        assert [hit.video for hit in hits] == best
    else:
        assert {hit.video for hit in hits[:k_test]} == set(best[:k_test])
        assert [hit.video for hit in hits[k_test:]] == best[k_test:]
        scores = [hit.score for hit in hits[:k_test]]
        assert scores == sorted(scores, reverse=True)


def test_top_must_be_positive():
    with pytest.raises(ValueError, match="top is 0"):
        search(*one_caption(torch.rand(2), torch.rand(2)), top=0)


def test_the_index_is_made_once_per_key_and_again_if_it_is_damaged(tmp_path):
    made = []

    def encode():
        made.append(1)
        return Videos(torch.full((2, 3, 4), len(made)), torch.rand(2, 1, 4))

    first = indexed_videos(tmp_path, "weights a", encode)
    again = indexed_videos(tmp_path, "weights a", encode)
    assert len(made) == 1 and all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert indexed_videos(tmp_path, "weights b", encode).embeds[0, 0, 0] == 2
    path = tmp_path / INDEX
    path.write_bytes(path.read_bytes()[:50])
    indexed_videos(tmp_path, "weights b", encode)
    assert len(made) == 3 and [p.name for p in tmp_path.iterdir()] == [INDEX]
