import pytest
import torch

from stgt.config import QFormerConfig
from stgt.models.qformer import QFormer, attention_bias


@pytest.fixture
def qformer():
    torch.manual_seed(0)
    sizes = dict(hidden=24, layers=4, heads=2, intermediate=48, queries=3)
    words = dict(vocab_size=20, bos_token_id=19, max_positions=8, max_text_length=8)
    return QFormer(QFormerConfig(**sizes | words), encoder_width=16).eval()


@pytest.fixture
def pair():
    torch.manual_seed(1)
    ids = torch.tensor([[19, 5, 6, 7, 8], [19, 9, 10, 0, 0]])
    return torch.randn(2, 7, 16), ids, (ids != 0).long()


def test_masks():
    words = torch.tensor([[1, 1, 0]])
    bidirectional = attention_bias(words, queries=2)[0, 0] == 0
    assert bidirectional.tolist() == [[True, True, True, True, False]] * 5
    causal = attention_bias(words, queries=2, causal=True)[0, 0] == 0
    assert causal.tolist() == [
        [True, True, False, False, False],
        [True, True, False, False, False],
        [True, True, True, False, False],
        [True, True, True, True, False],
        [True, True, True, True, False],
    ]
    assert attention_bias(words).shape == (1, 1, 3, 3)


def test_a_word_sees_no_later_word(qformer, pair):
    embeds, ids, mask = pair
    changed = ids.clone()
    changed[0, 3] = 11
    before, after = (qformer.causal(embeds, words, mask)[0] for words in (ids, changed))
    differs = (before - after).abs().amax(-1) > 1e-5
    assert differs.tolist() == [False] * 6 + [True] * 2  # 3 queries, then words


def test_no_word_reaches_the_queries_in_generation(qformer, pair):
    embeds, ids, mask = pair
    torch.testing.assert_close(qformer.causal(embeds, ids, mask)[:, :3], qformer.video(embeds))


def test_words_see_the_video_through_the_queries(qformer, pair):
    embeds, ids, mask = pair
    for pass_ in (qformer.causal, qformer.fused):
        assert not torch.allclose(pass_(embeds, ids, mask)[:, 3:], pass_(embeds + 1, ids, mask)[:, 3:], atol=1e-4)


def test_queries_see_the_words_in_matching(qformer, pair):
    embeds, ids, mask = pair
    assert not torch.allclose(qformer.fused(embeds, ids, mask)[:, :3], qformer.video(embeds), atol=1e-4)


@pytest.mark.parametrize("name", ["text", "fused", "causal"])
def test_padding_changes_nothing(qformer, pair, name):
    embeds, ids, mask = pair

    def run(ids, mask):
        return qformer.text(ids, mask) if name == "text" else getattr(qformer, name)(embeds, ids, mask)

    seen = torch.cat([torch.ones(2, 0 if name == "text" else 3), mask], 1).bool()
    filled = torch.where(mask == 0, 13, ids)
    torch.testing.assert_close(run(ids, mask)[seen], run(filled, mask)[seen])
    assert run(filled, mask).isfinite().all()
    short = run(ids[1:, :3], mask[1:, :3]) if name == "text" else None
    if short is not None:
        torch.testing.assert_close(short[0], run(ids, mask)[1, :3])


def test_eager_attention_reads_the_same_masks(qformer, pair):
    embeds, ids, mask = pair
    fast = qformer.text(ids, mask), qformer.fused(embeds, ids, mask), qformer.causal(embeds, ids, mask)
    qformer.bert.set_attn_implementation("eager")
    slow = qformer.text(ids, mask), qformer.fused(embeds, ids, mask), qformer.causal(embeds, ids, mask)
    for a, b in zip(fast, slow, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_an_empty_text_is_not_nan(qformer, pair):
    embeds, ids, mask = pair
    for hidden in (qformer.text(ids, mask * 0), qformer.fused(embeds, ids, mask * 0)):
        assert hidden.isfinite().all()


def test_word_logits_are_tied_to_the_embeddings(qformer, pair):
    embeds, ids, mask = pair
    hidden = qformer.causal(embeds, ids, mask)[:, 3:]
    before = qformer.word_logits(hidden)
    assert before.shape == (2, 5, 20)
    with torch.no_grad():
        qformer.embeddings.word_embeddings.weight[7] *= 2
    changed = (qformer.word_logits(hidden) - before).abs().amax((0, 1)) > 1e-6
    assert changed.nonzero().flatten().tolist() == [7]


@pytest.mark.parametrize(
    "ids, mask, message",
    [
        (torch.zeros(2, 4), torch.zeros(2, 4), r"input_ids is \(2, 4\) torch.float32, expected \(B, L\) integers"),
        (torch.zeros(4).long(), torch.zeros(4), r"input_ids is \(4,\) torch.int64"),
        (torch.zeros(2, 4).long(), torch.zeros(2, 3), r"attention_mask is \(2, 3\), expected .* \(2, 4\)"),
        (torch.zeros(2, 9).long(), torch.zeros(2, 9), "input_ids has 9 tokens per text, expected at most 8"),
    ],
)
def test_bad_texts(qformer, ids, mask, message):
    with pytest.raises(ValueError, match=message):
        qformer.text(ids, mask)
