"""The losses of Finsta in float64 against their equations, written as plain loops, and their gradients at the edges."""

import dataclasses
import math

import pytest
import torch
import torch.nn.functional as F
from helpers.scenes import FRAMES, batch_of, run, scene, tiny_finsta, word_vectors

from stgt.finsta import losses
from stgt.finsta.config import FinstaConfig
from stgt.finsta.graphs.graph import Frame, Relation, VideoGraph
from stgt.finsta.model.alignment import PredicateRegions, same_things, shown
from stgt.finsta.model.output import best_interval

CLIPS = [scene(seed, things) for seed, things in enumerate((1, 2, 3, 2))]


def values(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def flags(*shape, seed=1, share=0.4):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) < share


def plain_contrast(similarity, positive):
    rows = []
    for scores, good in zip(similarity.tolist(), positive.tolist(), strict=True):
        bad = sum(math.exp(s) for s, p in zip(scores, good, strict=True) if not p)
        each = [-math.log(math.exp(s) / (math.exp(s) + bad)) for s, p in zip(scores, good, strict=True) if p]
        if each:
            rows.append(sum(each) / len(each))
    return sum(rows) / len(rows)


def test_osc_leaves_other_positives_out_of_the_denominator_and_rows_without_one_out_of_the_mean():
    similarity, positive = values(5, 7) / 0.3, flags(5, 7)
    positive[2], positive[:, 3], positive[4] = False, False, True
    expected = (plain_contrast(similarity, positive) + plain_contrast(similarity.T, positive.T)) / 2
    assert losses.osc(similarity, positive).item() == pytest.approx(expected)


def test_ptc_sums_over_own_candidates_others_and_the_best_ones_of_rivals():
    scores, own, others, rivals = values(4, 9) / 0.3, flags(4, 9), flags(4, 9, seed=2), flags(4, 4, seed=3, share=0.6)
    others &= ~own
    own[3] = False
    rivals.fill_diagonal_(False)
    assert rivals[:3, :3].any() and rivals[:3, 3].any()
    each = []
    best = [max((c for c in range(9) if own[q, c]), key=lambda c: scores[q, c], default=None) for q in range(4)]
    for q in range(3):
        mine = sum(math.exp(scores[q, c]) for c in range(9) if own[q, c])
        foreign = sum(math.exp(scores[q, c]) for c in range(9) if others[q, c])
        foreign += sum(math.exp(scores[q, best[r]]) for r in range(3) if rivals[q, r])
        each.append(-math.log(mine / (mine + foreign)))
    assert losses.ptc(scores, own, others, rivals).item() == pytest.approx(sum(each) / 3)


def test_vtc_is_the_cross_entropy_of_both_directions():
    one, other = values(3, 5), values(3, 5, seed=1)
    similarity = F.normalize(one, dim=1) @ F.normalize(other, dim=1).T / 0.1
    target = torch.arange(3)
    expected = (F.cross_entropy(similarity, target) + F.cross_entropy(similarity.T, target)) / 2
    torch.testing.assert_close(losses.vtc(one, other, 0.1), expected)


def test_distillation_is_one_minus_the_cosine_and_reaches_the_host_alone():
    host, nodes = values(3, 5).requires_grad_(), values(3, 5, seed=1).requires_grad_()
    known = torch.tensor([True, False, True])
    loss = losses.distillation(host, nodes, known)
    cosine = F.cosine_similarity(host, nodes, dim=1)
    torch.testing.assert_close(loss, 1 - (cosine[0] + cosine[2]) / 2)
    loss.backward()
    assert nodes.grad is None and host.grad[0].any() and not host.grad[1].any()


@pytest.mark.parametrize("shape", [(0, 0), (0, 4), (4, 0), (4, 4)])
def test_losses_without_a_positive_are_0_and_have_a_gradient_of_0(shape):
    nothing = torch.zeros(shape, dtype=torch.bool)
    scores = torch.full(shape, 3.0, requires_grad=True)
    rivals = torch.ones(shape[0], shape[0], dtype=torch.bool)
    loss = losses.osc(scores, nothing) + losses.ptc(scores, nothing, ~nothing, rivals)
    loss = loss + losses.vtc(scores[:0], scores[:0], 0.1) + losses.distillation(scores[:0], scores[:0])
    loss.backward()
    assert loss.item() == 0 and not scores.grad.any()


def test_losses_with_nothing_but_positives_are_0_and_have_finite_gradients():
    everything, scores = torch.ones(3, 4, dtype=torch.bool), values(3, 4).requires_grad_()
    loss = losses.osc(scores, everything) + losses.ptc(scores, everything, ~everything, everything[:, :3] & False)
    loss.backward()
    assert loss.item() == 0 and not scores.grad.any()


def test_objects_and_tracks_are_the_same_things_by_the_cosine_of_their_phrases():
    settings = FinstaConfig()
    graphs = batch_of(CLIPS, settings)
    labels = word_vectors(graphs.labels)
    labels += 5.0  # the texts of a host point in similar directions
    same = same_things(graphs, labels, settings)
    centred = labels - labels.mean(0)
    texts, videos = graphs.texts, graphs.videos
    for o, node in enumerate(texts.object.tolist()):
        clip = int(texts.clip[node])
        said = centred[list(texts.phrases[o])].mean(0)
        score = {}
        for track, number in enumerate(videos.track_clip.tolist()):
            if number == clip:
                seen = centred[list(videos.phrases[track])].mean(0)
                alike = texts.phrases[o] == videos.phrases[track]
                score[int(videos.track_place[track])] = 1.0 if alike else float(F.cosine_similarity(said, seen, dim=0))
        second = sorted(score.values(), reverse=True)[:2][-1]
        expected = {k for k, value in score.items() if value > settings.rho and value >= second}
        assert set(same[o].nonzero().flatten().tolist()) == expected
    positive = shown(graphs, same)
    for o, node in enumerate(texts.object.tolist()):
        for s, track in enumerate(videos.track.tolist()):
            own = videos.track_clip[track] == texts.clip[node]
            assert positive[o, s] == bool(own and same[o, videos.track_place[track]])


def test_only_the_two_best_tracks_count_unless_edges_between_modalities_are_switched_off():
    graphs = batch_of([scene(2, 3)], FinstaConfig(rho=-1.0))
    labels = word_vectors(graphs.labels)
    assert same_things(graphs, labels, FinstaConfig(rho=-1.0)).sum(1).tolist() == [2, 2, 2]
    assert same_things(graphs, labels, FinstaConfig(rho=-1.0, crossmodal_coref=False)).all()
    assert not same_things(graphs, labels, FinstaConfig(rho=1.0)).any()  # no cosine is above 1


def test_regions_are_means_over_intervals_and_belong_to_predicates_of_their_clip():
    frames = [Frame(f.t, f.objects, (*f.relations, Relation(10, "near", 12))) for f in CLIPS[2].dsg.frames]
    crowd = dataclasses.replace(CLIPS[2], dsg=VideoGraph(tuple(frames)))
    clips = [*CLIPS[:2], crowd, scene(1, 2, name="again.mp4")]
    model = tiny_finsta()
    graphs = batch_of(clips, model.config)
    texts, videos, pairs = graphs.texts, graphs.videos, graphs.pairs
    regions: PredicateRegions = model.regions
    Q, S, R, d = len(texts.predicate), len(videos.sighting), len(pairs.relation), model.config.width
    text, sighting, relation = values(Q, d), values(S, d, seed=1), values(R, d, seed=2)
    same = same_things(graphs, word_vectors(graphs.labels), model.config)
    found = regions(text, sighting, relation, graphs, same)
    table = torch.cat([regions.subject(sighting), regions.target(sighting), regions.relation(relation)])
    bounds = [*pairs.node.start.tolist(), len(pairs.node.row)]
    intervals = list(zip(found.start.tolist(), found.end.tolist(), strict=True))
    assert sorted(intervals) == [(m, n) for m in range(FRAMES) for n in range(m + 1, FRAMES + 1)]
    clip = texts.clip[texts.predicate].tolist()
    said = [{clip[p] for p in range(Q) if texts.saying[p] == texts.saying[q]} for q in range(Q)]
    for p in range(len(pairs.clip)):
        for i, (m, n) in enumerate(intervals):
            nodes = pairs.node.row[bounds[p * FRAMES + m] : bounds[p * FRAMES + n]]
            region = table[nodes].mean(0)
            expected = F.cosine_similarity(regions.said(text), region, dim=1)
            torch.testing.assert_close(found.score[:, p, i], expected)
            for q in range(Q):
                place, s, o = int(pairs.clip[p]), int(texts.subject[q]), int(texts.target[q])
                own = clip[q] == place and bool(same[s, pairs.subject[p]]) and (o >= 0) == (pairs.target[p] >= 0)
                assert found.own[q, p, i] == (own and (o < 0 or bool(same[o, pairs.target[p]])))
                assert found.others[q, p, i] == (place not in said[q])
    for q in range(Q):
        for r in range(Q):
            assert found.rivals[q, r] == (clip[q] == clip[r] and texts.saying[q] != texts.saying[r])


def test_a_predicate_whose_subject_no_track_shows_may_be_about_any_track():
    model = tiny_finsta()
    clip = scene(0, 2)
    graphs = batch_of([clip], model.config)
    nobody = torch.zeros(len(graphs.texts.object), graphs.there.shape[1], dtype=torch.bool)
    Q, S, R, d = len(graphs.texts.predicate), len(graphs.videos.sighting), len(graphs.pairs.relation), 16
    found = model.regions(values(Q, d), values(S, d), values(R, d), graphs, nobody)
    alone = graphs.pairs.target < 0
    for q in range(Q):
        assert torch.equal(found.own[q].all(1), alone != graphs.texts.targeted[q])


def test_an_interval_is_where_frames_exceed_their_mean_by_the_largest_sum():
    start, end = torch.triu_indices(6, 6)
    end = end + 1
    for frames, expected in [
        ([0.1, 0.1, 0.9, 0.8, 0.9, 0.2], (2, 5)),
        ([0.9, 0.8, 0.1, 0.1, 0.1, 0.1], (0, 2)),
        ([0.1, 0.9, -math.inf, 0.9, 0.9, 0.1], (3, 5)),
        ([-math.inf, -math.inf, 0.4, -math.inf, -math.inf, -math.inf], (2, 3)),
    ]:
        score = torch.full((len(start),), 0.5)
        score[end - start == 1] = torch.tensor(frames)
        gone = [all(frames[t] == -math.inf for t in range(m, n)) for m, n in zip(start, end, strict=True)]
        score[torch.tensor(gone)] = -math.inf
        best = best_interval(score, start, end)
        assert (int(start[best]), int(end[best])) == expected


def test_the_grounding_of_a_predicate_has_the_tracks_of_its_best_region_and_of_an_object_its_cosines():
    model = tiny_finsta()
    output = run(model, CLIPS)
    graphs = batch_of(CLIPS, model.config)
    similarity, candidates = output.similarity, output.candidates
    texts, pairs = graphs.texts, graphs.pairs
    for q, node in enumerate(texts.predicate.tolist()):
        clip = int(texts.clip[node])
        found = output.grounding[clip].predicates[texts.id[node]]
        _, p = max((float(candidates.score[q, p, i]), p) for p, i in candidates.own[q].nonzero().tolist())
        i = best_interval(candidates.score[q, p], candidates.start, candidates.end)
        assert (found.start, found.end) == (candidates.start[i], candidates.end[i])
        places = [int(pairs.subject[p])] + [int(pairs.target[p])] * (int(pairs.target[p]) >= 0)
        assert found.tracks == tuple(10 + k for k in places)
        assert found.score == pytest.approx(float(candidates.score[q, p, i]), rel=1e-5)
    for o, node in enumerate(texts.object.tolist()):
        table = output.grounding[int(texts.clip[node])].objects[texts.id[node]]
        for s, (clip, track, frame) in enumerate(output.object_index.tolist()):
            if clip == texts.clip[node]:
                assert table[track - 10, frame].item() == pytest.approx(float(similarity[o, s]), rel=1e-5)
