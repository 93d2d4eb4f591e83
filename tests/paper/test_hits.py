"""The tests of the ablations count the captions that find their clip among all clips, and in their own group."""

import json
import shutil

import pytest
import torch

from stgt.data.shapes import render_motions
from stgt.data.shapes.motion import GROUP
from stgt.evaluation.options import Evaluation
from stgt.evaluation.run import evaluate
from stgt.paper.ablation.hits import Hits, first, hits, in_groups


def plain(similarity):
    found = []
    for caption in range(len(similarity)):
        start = caption // GROUP * GROUP
        own = similarity[caption, caption]
        found.append(all(own > similarity[v, caption] for v in range(start, start + GROUP) if v != caption))
    return found


def test_each_caption_is_compared_with_the_clips_of_its_group():
    similarity = torch.rand(5 * GROUP, 5 * GROUP, generator=torch.Generator().manual_seed(0)).round(decimals=1)
    similarity += 0.3 * torch.eye(len(similarity))
    assert in_groups(similarity).tolist() == plain(similarity)
    assert 0 < sum(plain(similarity)) < len(similarity)


def test_ties_are_wrong_and_clips_of_other_groups_do_not_count():
    similarity = torch.full((2 * GROUP, 2 * GROUP), 0.5)
    assert not in_groups(similarity).any()
    similarity[:GROUP, GROUP:] = similarity[GROUP:, :GROUP] = 1.0
    assert in_groups(similarity + 0.1 * torch.eye(2 * GROUP)).all()


def test_a_caption_finds_any_clip_that_has_it():
    captions = [(0, "a cat"), (1, "a dog"), (2, "a cat"), (2, "a bird")]
    similarity = torch.tensor([[1.0, 2.0, 5.0, 3.0], [9.0, 7.0, 0.0, 4.0], [0.0, 7.0, 4.0, 6.0]])
    # The first cat belongs to clip 0 and to clip 2, but clip 1 is more similar. The dog is a tie of clips 1 and 2.
    assert first(similarity, captions).tolist() == [False, False, True, True]


def test_the_hits_of_a_run_are_those_of_its_own_similarities_and_are_kept(run, tmp_path, monkeypatch):
    motions = render_motions(tmp_path / "motions", groups=2, size=32, frames=6)
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    seen = []
    monkeypatch.setattr("stgt.paper.ablation.hits.in_groups", lambda table: seen.append(table) or in_groups(table))
    found = hits(copy, motions, "cpu")
    assert seen[0].shape == (2 * GROUP, 2 * GROUP) and found.motions == in_groups(seen[0]).tolist()
    figures = evaluate(Evaluation(copy, k_test=0, device="cpu"))
    assert 100 * sum(found.clips) / len(found.clips) == pytest.approx(figures["text_to_video"]["vtc"]["R@1"])
    assert hits(copy, motions, "cpu") == found and len(seen) == 1
    (copy / "hits.json").write_text(json.dumps({"clips": [True], "motions": "all"}))
    with pytest.raises(ValueError, match="hits.json: 'motions' is \"all\", expected a list"):
        hits(copy, motions, "cpu")


def test_the_share_of_hits_is_a_percentage():
    assert Hits([], [True, False, False, False]).motion == 25.0
