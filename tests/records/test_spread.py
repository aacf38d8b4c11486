"""Means, intervals and every seed."""

import pytest
from scipy import stats

from expander_sae.records.spread import spread, t_quantile


@pytest.mark.parametrize("freedom", [1, 2, 3, 9, 30, 31, 40, 1000])
def test_quantiles_are_students(freedom):
    assert t_quantile(freedom) == pytest.approx(stats.t.ppf(0.975, freedom), rel=1e-4)


def test_the_interval_is_the_textbooks():
    values = [0.30, 0.31, 0.35]
    found = spread(values)
    low, high = stats.t.interval(0.95, 2, loc=sum(values) / 3, scale=stats.sem(values))
    assert found.mean - found.interval == pytest.approx(low, rel=1e-6)
    assert found.mean + found.interval == pytest.approx(high, rel=1e-6)
    assert found.values == tuple(values)


def test_what_is_not_a_number_is_left_out():
    assert spread([None, float("nan"), 2.0]).values == (2.0,)
    assert spread([2.0]).interval is None
    assert spread([None]) is None
