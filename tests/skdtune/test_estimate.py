"""The interval over seeds."""

import math

import pytest
from scipy import stats

from skdtune.estimate import estimate


@pytest.mark.parametrize("count", [2, 3, 10])
def test_the_interval_is_students(count):
    values = [0.7 + 0.01 * math.sin(index) for index in range(count)]
    found = estimate(values)
    mean = sum(values) / count
    low, high = stats.t.interval(0.95, count - 1, loc=mean, scale=stats.sem(values))
    assert found.mean == pytest.approx(mean, abs=1e-15)
    assert found.mean - found.half_width == pytest.approx(low, rel=1e-12)
    assert found.mean + found.half_width == pytest.approx(high, rel=1e-12)
    assert str(found) == f"{mean:.4f} ± {found.half_width:.4f}"


def test_two_seeds_by_hand():
    found = estimate([0.70, 0.72])
    assert found.half_width == pytest.approx(12.7062047 * 0.01, rel=1e-6)


def test_one_seed_has_no_interval_and_equal_ones_have_one_of_nothing():
    assert estimate([0.5]).half_width is None
    assert str(estimate([0.5])) == "0.5000"
    assert estimate([0.5, 0.5, 0.5]).half_width == 0.0
