"""The Wilson interval, against scipy's."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from gfn_ray.evaluation.wilson import wilson_interval


@given(st.integers(1, 500), st.data())
def test_it_is_scipys(trials, data):
    successes = data.draw(st.integers(0, trials))
    expected = binomtest(successes, trials).proportion_ci(0.95, "wilson")
    assert wilson_interval(successes, trials) == pytest.approx(tuple(expected), abs=1e-6)


@given(st.integers(1, 500), st.data())
def test_it_holds_the_share_itself(trials, data):
    """In floating point too, where none or all succeed."""
    successes = data.draw(st.sampled_from([0, trials]) | st.floats(0, trials))
    low, high = wilson_interval(successes, trials)
    assert 0 <= low <= successes / trials <= high <= 1


def test_nothing_is_known_without_trials():
    assert wilson_interval(0, 0) == (0.0, 1.0)
