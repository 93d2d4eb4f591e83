"""The test of motion counts the captions that find their clip in their own group."""

import pytest
import torch

from stgt.data.shapes import render_motions
from stgt.data.shapes.motion import GROUP
from stgt.paper.ablation.motion import accuracy_in_groups, motion_accuracy


def plain(similarity):
    found = 0
    for caption in range(len(similarity)):
        start = caption // GROUP * GROUP
        own = similarity[caption, caption]
        found += all(own > similarity[v, caption] for v in range(start, start + GROUP) if v != caption)
    return 100 * found / len(similarity)


def test_each_caption_is_compared_with_the_clips_of_its_group():
    similarity = torch.rand(5 * GROUP, 5 * GROUP, generator=torch.Generator().manual_seed(0)).round(decimals=1)
    similarity += 0.3 * torch.eye(len(similarity))
    assert 0 < accuracy_in_groups(similarity) < 100
    assert accuracy_in_groups(similarity) == pytest.approx(plain(similarity))


def test_ties_are_wrong_and_clips_of_other_groups_do_not_count():
    similarity = torch.full((2 * GROUP, 2 * GROUP), 0.5)
    assert accuracy_in_groups(similarity) == 0
    similarity[:GROUP, GROUP:] = similarity[GROUP:, :GROUP] = 1.0
    assert accuracy_in_groups(similarity + 0.1 * torch.eye(2 * GROUP)) == 100


def test_a_run_is_measured_on_its_own_similarities(run, tmp_path, monkeypatch):
    clips = render_motions(tmp_path / "motions", groups=2, size=32, frames=6)
    seen = []
    monkeypatch.setattr("stgt.paper.ablation.motion.accuracy_in_groups", lambda table: seen.append(table) or 12.5)
    assert motion_accuracy(run, clips, "cpu") == 12.5
    assert seen[0].shape == (2 * GROUP, 2 * GROUP) and seen[0].isfinite().all()
