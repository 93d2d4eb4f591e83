"""A model is measured on its groundings and nodes, with whole graphs and with boxes alone."""

from dataclasses import replace

import pytest
import torch
from helpers.hosts import SIZE, tiny_host
from helpers.scenes import FRAMES, TINY, scene

from stgt.finsta.config import FinstaConfig
from stgt.finsta.evaluation.matching import Matching
from stgt.finsta.evaluation.measured import Measured
from stgt.finsta.evaluation.understanding import VIEWS, understanding
from stgt.finsta.graphs.graph import Grounding
from stgt.finsta.model.finsta import Finsta

CLIPS = [scene(seed, 2 + seed % 2) for seed in range(8)]


@pytest.fixture(scope="module")
def host():
    return tiny_host("stgt")


@pytest.fixture(scope="module")
def finsta(host):
    torch.manual_seed(0)
    return Finsta(FinstaConfig(**TINY), host.widths).eval()


def with_truth(clip):
    """The clip with the truth about each object of its text, and about its first predicate from 0.25 s to 0.75 s."""
    objects = [node.id for node in clip.tsg.nodes if node.kind == "object"]
    predicate = next(node.id for node in clip.tsg.nodes if node.kind == "predicate")
    truths = [Grounding(node, (10 + number,), 0.0, 1.5) for number, node in enumerate(objects)]
    return replace(clip, grounding=(*truths, Grounding(predicate, (10,), 0.25, 0.75)))


def frames(size):
    """Batches of random frames of the clips, at the times of their graphs."""
    generator = torch.Generator().manual_seed(0)
    videos = torch.randn(len(CLIPS), FRAMES, 3, SIZE, SIZE, generator=generator)
    times = 0.25 * torch.arange(FRAMES, dtype=torch.float64).expand(len(CLIPS), -1)
    return list(zip(videos.split(size), times.split(size), strict=True))


def test_both_views_are_measured_and_the_host_sees_each_clip_once(host, finsta, monkeypatch):
    seen, states = [], host.states
    monkeypatch.setattr(host, "states", lambda videos, *rest: seen.append(len(videos)) or states(videos, *rest))
    clips = list(map(with_truth, CLIPS))
    found = understanding(finsta, host, frames(3), clips)
    assert seen == [3, 3, 2] and understanding(finsta, host, frames(3), clips[:4]) and seen[3:] == [3, 1]
    assert found.keys() == VIEWS.keys()
    sightings = sum(len(clip.dsg.frames[0].objects) for clip in CLIPS) * FRAMES
    for view in VIEWS:
        objects, predicates = found[view]["objects"], found[view]["predicates"]
        assert objects["frames"] == sightings and objects["chance"] == pytest.approx(40)
        assert predicates["predicates"] == len(CLIPS) and predicates["whole_iou"] == pytest.approx(100 / 3)
    assert found["whole graphs"] != found["boxes alone"]
    assert "probe" not in found["whole graphs"]


def test_clips_without_a_truth_have_no_figures(host, finsta):
    assert understanding(finsta, host, frames(8), CLIPS)["whole graphs"] == {}


def test_results_are_kept_in_a_file(tmp_path):
    matching = Matching([1, 3], [2, 1], {"order": [0.5, None]})
    measured = Measured(["a.mp4", "b.mp4"], "simulated", matching, {"boxes alone": {"objects": {"accuracy": 50.0}}})
    measured.write(tmp_path / "measured.json")
    assert Measured.read(tmp_path / "measured.json") == measured
    (tmp_path / "measured.json").write_text("{}")
    with pytest.raises(ValueError, match="there is no 'matching', expected an object"):
        Measured.read(tmp_path / "measured.json")
