import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from stgt import losses


def features(n=4, queries=3, width=8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    video = F.normalize(torch.randn(n, queries, width, generator=generator), dim=-1)
    text = F.normalize(torch.randn(n, width, generator=generator), dim=-1)
    return video, text


def logits(n=4, m=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, m, generator=generator), torch.randn(n, m, generator=generator)


def test_similarity_is_the_largest_cosine_over_queries():
    video, text = features()
    S = losses.similarity(video, text[:3])
    assert S.shape == (4, 3)
    for v in range(4):
        for t in range(3):
            assert S[v, t].item() == pytest.approx(max((q @ text[t]).item() for q in video[v]), abs=1e-6)


def smoothed(row, target, smoothing):
    """Cross-entropy of one row against a distribution mixed with the uniform one."""
    target = (1 - smoothing) * target + smoothing / len(row)
    return -(target * (row - row.exp().sum().log())).sum()


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("offset", [0, 2])
def test_vtc_by_hand(smoothing, offset):
    v2t, t2v = logits(3, 6)
    loss = losses.vtc_loss(v2t, t2v, smoothing=smoothing, offset=offset)
    true = F.one_hot(offset + torch.arange(3), 6).float()
    rows = [smoothed(sim[i], true[i], smoothing) for sim in (v2t, t2v) for i in range(3)]
    torch.testing.assert_close(loss, torch.stack(rows).mean())


def test_vtc_prefers_the_true_pairs():
    assert losses.vtc_loss(20 * torch.eye(4), 20 * torch.eye(4), smoothing=0.0) < 1e-6
    assert losses.vtc_loss(20 * torch.eye(4), 20 * torch.eye(4).flip(0), smoothing=0.0) > 5


# These are rows 2 and 3 of a batch of 6. Pairs 2 and 5 have the same video, and pairs 3 and 0 have the same text.
SAME = torch.tensor([[0, 0, 1, 0, 0, 1], [1, 0, 0, 1, 0, 0]]).bool()


def test_pairs_of_one_video_share_the_contrastive_target():
    v2t, t2v = logits(2, 6)
    loss = losses.vtc_loss(v2t, t2v, smoothing=0.1, offset=2, same=SAME)
    rows = [smoothed(sim[i], SAME[i].float() / 2, 0.1) for sim in (v2t, t2v) for i in range(2)]
    torch.testing.assert_close(loss, torch.stack(rows).mean())
    # Rows may have different numbers of positives. Each row's own ones are targets in equal parts.
    uneven = SAME.clone()
    uneven[0, [1, 4]] = True
    loss = losses.vtc_loss(v2t, t2v, smoothing=0.1, offset=2, same=uneven)
    targets = [uneven[0].float() / 4, uneven[1].float() / 2]
    rows = [smoothed(sim[i], targets[i], 0.1) for sim in (v2t, t2v) for i in range(2)]
    torch.testing.assert_close(loss, torch.stack(rows).mean())
    # If the model scores two copies of a video equally, the loss is log 2, and its gradient asks for no preference.
    even = torch.tensor([[50.0, 50.0, 0.0]])
    same = torch.tensor([[True, True, False]])
    assert losses.vtc_loss(even, even, smoothing=0.0, same=same).item() == pytest.approx(math.log(2))
    assert losses.vtc_loss(even, even + torch.tensor([[3.0, 0, 0]]), smoothing=0.0, same=same) > math.log(2) + 0.1


def test_pairs_of_one_video_are_as_similar_as_a_pair_to_itself():
    video, text = features(n=6, queries=2)
    targets = losses.csal_targets(video[2:4], text[2:4], video, text, gamma=3.0, same=SAME)
    mean = F.normalize(video.mean(1), dim=-1)
    for row, i in enumerate((2, 3)):
        S = [max((mean[i] @ mean[j]).item(), 0) * max((text[i] @ text[j]).item(), 0) for j in range(6)]
        S = [1.0 if SAME[row, j] else s if s >= 0.05 else -100 for j, s in enumerate(S)]
        torch.testing.assert_close(targets[row], torch.softmax(3 * torch.tensor(S), 0), rtol=1e-5, atol=1e-6)


def test_pairs_of_one_video_are_never_hard_negatives():
    sim = torch.tensor([[0.0, 1.0, 9.0, 2.0, 0.5, 30.0], [30.0, 1.0, 2.0, 9.0, 0.0, 0.5]])
    numbers = (torch.arange(500) + 0.5) / 500
    drawn = torch.stack([losses.hard_negatives(sim, u.expand(2), offset=2, same=SAME) for u in numbers], 1)
    for row in range(2):
        expected = torch.softmax(sim[row].masked_fill(SAME[row], -torch.inf), 0)
        share = torch.bincount(drawn[row], minlength=6) / 500
        torch.testing.assert_close(share, expected, rtol=0, atol=0.003)
    with pytest.raises(ValueError, match="same text as all 2 pairs .* larger batches, loss.multi_positive=False"):
        losses.hard_negatives(torch.zeros(2, 2), torch.zeros(2), same=torch.ones(2, 2).bool())


@pytest.mark.parametrize("offset", [0, 2])
def test_without_shared_videos_or_texts_each_pair_is_its_only_positive(offset):
    own = F.one_hot(offset + torch.arange(3), 6).bool()
    v2t, t2v = logits(3, 6)
    video, text = features(n=6)
    rows, uniform = slice(offset, offset + 3), torch.rand(3)
    for expected, found in (
        [losses.vtc_loss(v2t, t2v, offset=offset, **same) for same in ({}, {"same": own})],
        [losses.csal_targets(video[rows], text[rows], video, text, **same) for same in ({}, {"same": own})],
        [losses.hard_negatives(v2t, uniform, offset=offset, **same) for same in ({}, {"same": own})],
    ):
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("mask", ["release", "paper"])
def test_csal_targets_by_hand(mask):
    video, text = features(n=6, queries=2)
    targets = losses.csal_targets(video[2:4], text[2:4], video, text, gamma=3.0, mask=mask)
    mean = F.normalize(video.mean(1), dim=-1)
    for row, i in enumerate((2, 3)):
        S = []
        for j in range(6):
            V, T = (mean[i] @ mean[j]).item(), (text[i] @ text[j]).item()
            S.append(max(V, 0) * max(T, 0))
            if (S[-1] < 0.05) if mask == "release" else (V <= 0 and T <= 0):
                S[-1] = -100
        expected = torch.softmax(3 * torch.tensor(S), 0)
        torch.testing.assert_close(targets[row], expected, rtol=1e-5, atol=1e-6)
    assert (targets == 0).any()  # at least one pair is masked, so the test covers masks
    paper, release = (losses.csal_targets(video, text, video, text, mask=m) for m in ("paper", "release"))
    assert not torch.equal(paper, release)


def test_a_pair_with_exactly_the_least_similarity_can_be_a_target():
    video = torch.tensor([[[1.0, 0.0]]]).expand(2, 1, 2)
    text = torch.tensor([[1.0, 0.0], [0.05, math.sqrt(1 - 0.05**2)]])
    targets = losses.csal_targets(video[:1], text[:1], video, text, gamma=3.0)
    torch.testing.assert_close(targets, torch.softmax(3 * torch.tensor([[1.0, 0.05]]), -1))


def test_csal_targets_are_sharper_with_gamma_and_largest_on_the_diagonal():
    video, text = features(n=5, width=3)
    video, text = video.abs(), text.abs()  # similar enough that no pair is masked
    peaks = [losses.csal_targets(video, text, video, text, gamma=g).diagonal() for g in (1.0, 5.0, 10.0)]
    assert (peaks[0] < peaks[1]).all() and (peaks[1] < peaks[2]).all()
    targets = losses.csal_targets(video, text, video, text)
    assert torch.equal(targets.argmax(1), torch.arange(5))


def test_csal_by_hand_and_its_gradient_through_the_targets():
    v2t, t2v = logits()
    targets = torch.softmax(torch.randn(4, 4), -1).requires_grad_()
    loss = losses.csal_loss(v2t, t2v, targets, smoothing=0.01)
    rows = [smoothed(sim[i], targets[i], 0.01) for sim in (v2t, t2v) for i in range(4)]
    torch.testing.assert_close(loss, torch.stack(rows).mean())
    (gradient,) = torch.autograd.grad(loss, targets)
    expected = -0.99 * (v2t.log_softmax(-1) + t2v.log_softmax(-1)) / 8
    torch.testing.assert_close(gradient, expected)


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 6), st.integers(0, 5), st.integers(2, 8), st.floats(0, 1, exclude_max=True), st.integers(0, 99))
def test_a_hard_negative_is_never_the_true_partner(n, offset, extra, uniform, seed):
    N = n + offset + extra
    sim = 30 * torch.randn(n, N, generator=torch.Generator().manual_seed(seed))
    drawn = losses.hard_negatives(sim, torch.full((n,), uniform, dtype=torch.float64), offset=offset)
    assert ((drawn >= 0) & (drawn < N)).all()
    assert (drawn != offset + torch.arange(n)).all()


def test_hard_negatives_follow_the_softmax():
    sim = torch.tensor([[9.0, 1.0, 0.0, 2.0]])
    drawn = torch.cat([losses.hard_negatives(sim, (torch.arange(1) + 0.5 + i) / 1000) for i in range(1000)])
    share = torch.bincount(drawn, minlength=4) / len(drawn)
    expected = torch.cat([torch.zeros(1), torch.softmax(sim[0, 1:], 0)])
    torch.testing.assert_close(share, expected, rtol=0, atol=0.001)


def test_hard_negatives_depend_on_the_numbers_alone():
    sim, _ = logits(4, 8)
    uniform = torch.rand(8, generator=torch.Generator().manual_seed(1))
    whole = losses.hard_negatives(torch.cat([sim, sim]), uniform)
    for half in (0, 1):
        rows = slice(4 * half, 4 * half + 4)
        part = losses.hard_negatives(sim, uniform[rows], offset=4 * half)
        assert torch.equal(part, whole[rows])


def test_a_single_pair_has_no_negative():
    with pytest.raises(ValueError, match="at least 2 pairs"):
        losses.hard_negatives(torch.zeros(1, 1), torch.zeros(1))


@pytest.mark.parametrize("N", [3, 4])
def test_broken_similarities_draw_something(N):
    drawn = losses.hard_negatives(torch.full((3, N), math.nan), torch.rand(3))
    assert ((drawn >= 0) & (drawn < N)).all()


def test_a_pair_whose_partners_are_all_right_has_no_negative():
    same = torch.tensor([[True, False], [True, True]])
    with pytest.raises(ValueError, match="as all 2 pairs of the batch"):
        losses.hard_negatives(torch.zeros(2, 2), torch.zeros(2), same=same)


def test_vtm_by_hand():
    sim, _ = logits(6, 2)
    rows = [smoothed(sim[i], F.one_hot(torch.tensor(int(i < 2)), 2).float(), 0.0) for i in range(6)]
    torch.testing.assert_close(losses.vtm_loss(sim, matched=2), torch.stack(rows).mean())


def test_vtg_by_hand():
    generator = torch.Generator().manual_seed(0)
    words = torch.randn(2, 4, 5, generator=generator)
    ids = torch.tensor([[1, 2, 3, 4], [1, 4, 0, 0]])
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
    rows = [
        smoothed(words[b, i], F.one_hot(ids[b, i + 1], 5).float(), 0.1) for b, i in [(0, 0), (0, 1), (0, 2), (1, 0)]
    ]
    predicted = mask[:, 1:] != 0
    loss = losses.vtg_loss(words[:, :-1][predicted], ids[:, 1:][predicted], torch.tensor(8.0))
    torch.testing.assert_close(loss, torch.stack(rows).sum() / 8)
    assert losses.predicted_words(mask) == 4


def test_everything_is_float32_under_autocast():
    video, text = features()
    half = video.bfloat16(), text.bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        S = losses.similarity(*half)
        targets = losses.csal_targets(*half, *half)
        results = [
            S,
            targets,
            losses.vtc_loss(S.bfloat16(), S.T.bfloat16()),
            losses.csal_loss(S.bfloat16(), S.T.bfloat16(), targets),
            losses.vtm_loss(torch.randn(6, 2).bfloat16(), 2),
            losses.vtg_loss(torch.randn(3, 5).bfloat16(), torch.tensor([2, 3, 4]), torch.tensor(3.0)),
        ]
    assert all(result.dtype == torch.float32 for result in results)
    wide = half[0].float(), half[1].float()
    assert torch.equal(S, losses.similarity(*wide))
    assert torch.equal(targets, losses.csal_targets(*wide, *wide))


@pytest.mark.parametrize("loss", ["vtc", "csal", "targets"])
def test_gradients_in_double_precision(loss):
    def function(video, text):
        video, text = F.normalize(video, dim=-1), F.normalize(text, dim=-1)
        S = losses.similarity(video, text) / 0.5
        if loss == "vtc":
            return losses.vtc_loss(S, S.T)
        targets = losses.csal_targets(video, text, video, text, mask="paper")
        return targets if loss == "targets" else losses.csal_loss(S, S.T, targets)

    video, text = features(n=3, width=4, seed=3)
    assert torch.autograd.gradcheck(function, (video.double().requires_grad_(), text.double().requires_grad_()))
