"""Retrieval and choices by a host's similarity, with hosts whose similarities are known."""

import json

import pytest
import torch
from torch import nn

from stgt.data.shapes import render_shapes
from stgt.finsta.evaluation.matching import KINDS, match, read_negatives


class Numbers:
    """A host for videos that are single numbers. `table` gives the similarity of each number with each text."""

    def __init__(self, table):
        self.model, self.table, self.seen = nn.Linear(1, 1), table, []

    def similarity(self, videos, texts):
        numbers = [int(video.flatten()[0]) for video in videos]
        self.seen += numbers
        return torch.tensor([[self.table[text][number] for text in texts] for number in numbers])


def videos(count, size):
    return torch.arange(count).float().view(count, 1, 1, 1, 1).split(size)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_ranks_and_choices_do_not_depend_on_the_batches_and_each_video_is_encoded_once(size):
    table = {
        "a": [0.9, 0.1, 0.2], "b": [0.5, 0.4, 0.3], "c": [0.1, 0.6, 0.5],
        "not a": [0.8, 1.0, 1.0], "no a": [0.95, 0.0, 0.0], "not c": [0.0, 0.0, 0.5],
    }  # fmt: skip
    host = Numbers(table)
    negatives = [{"order": "not a", "adverb": "no a"}, {}, {"order": "not c"}]
    found = match(host, videos(3, size), ["a", "b", "c"], negatives)
    assert found.text_to_video == [1, 2, 2] and found.video_to_text == [1, 2, 1]
    assert found.choices == {"order": [1.0, None, 0.5], "adverb": [0.0, None, None]}
    assert host.seen == [0, 1, 2]
    figures = found.figures()
    assert figures["choices"] == {"order": 75.0, "adverb": 0.0, "mean": 37.5}
    assert figures["text_to_video"]["R@1"] == pytest.approx(100 / 3)


def test_clips_with_the_same_caption_are_right_answers_to_each_other():
    host = Numbers({"a b": [0.1, 0.2, 0.3], "A  b.": [0.1, 0.2, 0.3], "c": [0.0, 0.0, 1.0]})
    found = match(host, videos(3, 3), ["a b", "A  b.", "c"], [{}] * 3)
    assert found.text_to_video == [2, 2, 1] and found.video_to_text == [1, 1, 1]
    assert found.figures()["choices"] == {}


def test_numbers_that_do_not_fit_and_scores_that_are_not_finite_are_refused():
    host = Numbers({"a": [0.0, float("nan")]})
    with pytest.raises(ValueError, match="there are 1 captions and 2 negatives"):
        match(host, videos(1, 1), ["a"], [{}, {}])
    with pytest.raises(ValueError, match="there are 1 videos and 2 captions"):
        match(host, videos(1, 1), ["a", "a"], [{}, {}])
    with pytest.raises(ValueError, match="NaN or infinite"):
        match(host, videos(2, 1), ["a", "a"], [{}, {}])


def test_wrong_captions_are_read_from_the_scenes(tmp_path):
    tmp_path = tmp_path / "phases"
    render_shapes(tmp_path, train=1, test=12, size=32, frames=6, kind="phases")
    found = read_negatives(tmp_path / "scenes.json")
    assert len(found) == 13 and {kind for wrong in found.values() for kind in wrong} <= set(KINDS)
    assert {"direction", "adverb"} <= {kind for wrong in found.values() for kind in wrong}
    (tmp_path / "scenes.json").write_text(json.dumps({"clips": [{"video": "a", "negatives": {"order": 1}}]}))
    with pytest.raises(ValueError, match="clip 0: 'order' is 1, expected a text"):
        read_negatives(tmp_path / "scenes.json")
