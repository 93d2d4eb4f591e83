import pytest
import torch
from transformers import Blip2QFormerConfig, Blip2QFormerModel

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


def test_the_pass_of_training_gives_what_two_passes_give(qformer, pair):
    embeds, ids, mask = pair
    begun = ids.clone()
    begun[:, 0] = 18
    queries, written, first = qformer.read(embeds, begun, ids, mask)
    torch.testing.assert_close(torch.cat([queries, written], 1), qformer.causal(embeds, begun, mask))
    torch.testing.assert_close(first, qformer.text(ids, mask)[:, 0])
    (queries.sum() + (written * mask[..., None]).sum() + first.sum()).backward()
    gradients = {name: weight.grad for name, weight in qformer.named_parameters() if weight.grad is not None}
    qformer.zero_grad()
    both = qformer.causal(embeds, begun, mask)
    (both[:, :3].sum() + (both[:, 3:] * mask[..., None]).sum() + qformer.text(ids, mask)[:, 0].sum()).backward()
    for name, gradient in gradients.items():
        torch.testing.assert_close(qformer.get_parameter(name).grad, gradient, rtol=1e-4, atol=1e-5, msg=name)


def test_only_the_needed_positions_go_through_the_last_layer(qformer, pair):
    embeds, ids, mask = pair
    last, rows = qformer.bert.encoder["layer"][-1], []
    last.attention.register_forward_hook(lambda _, __, out: rows.append(out.shape[1]))
    torch.testing.assert_close(qformer.fused(embeds, ids, mask, outputs=3), qformer.fused(embeds, ids, mask)[:, :3])
    torch.testing.assert_close(qformer.text(ids, mask, outputs=1), qformer.text(ids, mask)[:, :1])
    qformer.read(embeds, ids, ids, mask)
    assert rows == [3, 3 + 5, 1, 5, 3 + 5 + 1]


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


def transformers_model(qformer):
    """The same Q-Former in transformers' code, with its eager attention."""
    config = qformer.config
    theirs = Blip2QFormerModel(
        Blip2QFormerConfig(
            hidden_size=config.hidden,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            intermediate_size=config.intermediate,
            cross_attention_frequency=config.cross_frequency,
            encoder_hidden_size=16,
            use_qformer_text_input=True,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
            attn_implementation="eager",
        )
    )
    theirs.load_state_dict(qformer.bert.state_dict())
    return theirs


@pytest.mark.parametrize("name", ["video", "text", "fused", "causal"])
def test_outputs_and_gradients_are_those_of_transformers(qformer, pair, name):
    embeds, ids, mask = pair
    theirs, queries = transformers_model(qformer), qformer.query_tokens.expand(2, -1, -1)
    words = qformer.embeddings(ids)
    given = {
        "video": (queries, 3, None),
        "text": (words, 0, attention_bias(mask)),
        "fused": (torch.cat([queries, words], 1), 3, attention_bias(mask, 3)),
        "causal": (torch.cat([queries, words], 1), 3, attention_bias(mask, 3, causal=True)),
    }
    x, count, bias = given[name]
    expected = theirs(x, count, bias, encoder_hidden_states=embeds).last_hidden_state
    arguments = {"video": (embeds,), "text": (ids, mask)}.get(name, (embeds, ids, mask))
    found = getattr(qformer, name)(*arguments)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)

    toward = torch.randn_like(found)
    expected.backward(toward)
    found.backward(toward)
    wanted = {key: value.grad for key, value in theirs.named_parameters()}
    for key, value in qformer.bert.named_parameters():
        if wanted[key] is None:
            assert value.grad is None or not value.grad.any(), key
        else:
            torch.testing.assert_close(value.grad, wanted[key], rtol=1e-4, atol=1e-5, msg=key)


def test_video_keys_serve_every_pass(qformer, pair):
    embeds, ids, mask = pair
    keys = qformer.keys(embeds)
    torch.testing.assert_close(qformer.video(keys), qformer.video(embeds))
    for run in (qformer.fused, qformer.causal):
        torch.testing.assert_close(run(keys, ids, mask), run(embeds, ids, mask))


@pytest.mark.parametrize("name", ["fused", "causal"])
def test_several_texts_may_have_one_video(qformer, pair, name):
    embeds, ids, mask = pair
    run, rows, texts = getattr(qformer, name), torch.tensor([1, 0, 1]), torch.tensor([0, 1, 1])
    expected = run(embeds[rows], ids[texts], mask[texts])
    for video in (embeds, qformer.keys(embeds)):
        torch.testing.assert_close(run(video, ids[texts], mask[texts], rows), expected)


def test_texts_without_a_video_of_their_own_are_refused(qformer, pair):
    embeds, ids, mask = pair
    with pytest.raises(ValueError, match="input_ids has 2 texts for 1 videos, expected one each"):
        qformer.fused(embeds[:1], ids, mask)
    with pytest.raises(ValueError, match="input_ids has 2 texts for 3 rows, expected one each"):
        qformer.causal(qformer.keys(embeds), ids, mask, torch.tensor([0, 1, 1]))


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
