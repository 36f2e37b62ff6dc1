"""Statistics in closed form."""

import numpy as np
import pytest
from scipy import stats

from measure.statistics import (
    bootstrap,
    interquartile_mean,
    mean_of_groups,
    paired_difference,
    pooled,
    probability_of_improvement,
)

MEAN = pooled(lambda x: float(np.mean(x)))


def test_the_interquartile_mean_is_that_of_the_middle_half() -> None:
    assert interquartile_mean(np.array([1e9, 1.0, 2.0, 3.0, 4.0, -1e9, 5.0, 6.0])) == pytest.approx(3.5)


def test_the_bootstrap_interval_of_a_mean_is_that_of_the_normal_law_for_many_values() -> None:
    x = np.random.default_rng(0).normal(10, 2, 400)
    interval = bootstrap([x], MEAN)
    half = stats.norm.ppf(0.975) * x.std() / np.sqrt(400)
    assert interval.value == pytest.approx(x.mean())
    assert interval.low == pytest.approx(x.mean() - half, abs=0.15 * half)
    assert interval.high == pytest.approx(x.mean() + half, abs=0.15 * half)
    assert bootstrap([x], MEAN) == interval


def test_groups_are_resampled_apart() -> None:
    """Between two groups without spread there is nothing to resample, however far apart they lie."""
    interval = bootstrap([np.full(5, 1.0), np.full(5, 1000.0)], MEAN)
    assert (interval.low, interval.value, interval.high) == (500.5, 500.5, 500.5)


def test_one_value_has_no_interval_and_no_value_no_mean() -> None:
    interval = bootstrap([np.array([3.0])], MEAN)
    assert (interval.value, interval.low, interval.high) == (3.0, -np.inf, np.inf)
    with pytest.raises(ValueError, match="at least one value"):
        bootstrap([np.array([])], MEAN)


def test_a_mean_of_groups_has_the_interval_of_welch() -> None:
    """Two groups: half of what Welch's test has for a difference, whose variance is that of the sum."""
    first, second = np.array([1.0, 2.0, 6.0]), np.array([10.0, 12.0, 12.0, 18.0])
    interval = mean_of_groups([first, second])
    welch = stats.ttest_ind(first, -second, equal_var=False).confidence_interval()
    assert (interval.value, interval.low, interval.high) == pytest.approx((8, welch.low / 2, welch.high / 2))
    assert mean_of_groups([np.array([1.0]), first]).high == np.inf
    with pytest.raises(ValueError, match="at least one value"):
        mean_of_groups([first, np.array([])])


def test_the_interval_of_a_mean_of_groups_covers_it_in_95_of_100_cases() -> None:
    rng = np.random.default_rng(0)
    drawn = rng.normal(0, np.arange(1, 8)[:, None], (2000, 7, 3))
    covered = [interval.low < 0 < interval.high for interval in (mean_of_groups(list(groups)) for groups in drawn)]
    assert np.mean(covered) == pytest.approx(0.95, abs=0.02)


def test_pairs_cancel_what_they_share() -> None:
    start = np.random.default_rng(0).normal(0, 1000, 50)
    interval = paired_difference(start + 1 + np.tile([0.1, -0.1], 25), start)
    assert interval.value == pytest.approx(1.0)
    assert 0.96 < interval.low < interval.high < 1.04
    with pytest.raises(ValueError, match="50 values cannot be paired with 49"):
        paired_difference(start, start[1:])


def test_probability_of_improvement_by_hand() -> None:
    """Task one: of six pairs ours wins four and ties one; task two: all pairs tie."""
    ours = [np.array([3.0, 1.0]), np.array([7.0])]
    others = [np.array([0.0, 1.0, 2.0]), np.array([7.0, 7.0])]
    assert probability_of_improvement(ours, others) == pytest.approx(((4 + 0.5) / 6 + 0.5) / 2)
    with pytest.raises(ValueError, match="2 tasks cannot be compared with 1"):
        probability_of_improvement(ours, others[:1])
