"""The paired bootstrap and the correlation of ranks give known values."""

import math

import numpy as np
import pytest

from stgt.evaluation.intervals import Difference, paired_difference, rank_correlation


def test_the_interval_is_that_of_a_mean_of_independent_clips():
    """For many clips it is the mean ± 1.96 standard errors; the bootstrap's own error is about 1% of its width."""
    rng = np.random.default_rng(1)
    one, other = rng.random(1000), rng.random(1000)
    found, error = paired_difference(one, other), (one - other).std() / math.sqrt(1000)
    assert found.mean == pytest.approx((one - other).mean())
    assert (found.low, found.high) == pytest.approx(
        (found.mean - 1.96 * error, found.mean + 1.96 * error), abs=0.15 * error
    )
    assert found == paired_difference(one, other) and found != paired_difference(one, other, seed=1)


def test_clips_are_paired():
    """Two models that differ by the same amount on every clip differ clearly, however much the clips differ."""
    clips = np.random.default_rng(0).random(50)
    found = paired_difference(clips + 0.01, clips)
    assert found == pytest.approx((0.01, 0.01, 0.01)) and found.is_clear
    assert not paired_difference([0, 1, 0, 1], [1, 0, 0, 1]).is_clear
    assert not Difference(1.0, 0.0, 2.0).is_clear and not Difference(-1.0, -2.0, 0.0).is_clear


@pytest.mark.parametrize(("one", "other"), [([1], [1, 2]), ([], [])])
def test_results_that_do_not_pair_are_refused(one, other):
    with pytest.raises(ValueError, match="expected equal numbers of at least one"):
        paired_difference(one, other)


def test_the_rank_correlation_is_spearmans():
    assert rank_correlation([1, 2, 30], [4, 5, 6]) == pytest.approx(1)
    assert rank_correlation([1, 2, 3], [3, 2, 1]) == pytest.approx(-1)
    assert rank_correlation([1, 2, 3, 4], [1, 3, 2, 4]) == pytest.approx(1 - 6 * 2 / (4 * 15))
    assert rank_correlation([1, 1, 2], [1, 2, 3]) == pytest.approx(math.sqrt(3) / 2)
    assert rank_correlation([1, 1, 2, 3], [1, 2, 3, 4]) == pytest.approx(4.5 / math.sqrt(4.5 * 5))
    assert rank_correlation([1, 1], [1, 2]) is None
    with pytest.raises(ValueError, match="at least two"):
        rank_correlation([1], [1])
