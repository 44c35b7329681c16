"""Posterior diagnostics against what is known exactly, and text metrics."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from gfn_ray.evaluation.posterior import log_mean_exp, posterior_metrics
from gfn_ray.evaluation.text import distinct_fraction, is_copy

RATIOS = arrays(np.float64, st.integers(2, 12), elements=st.floats(-300, 300))


def test_at_the_posterior_the_ratio_is_log_z_and_both_gaps_vanish():
    metrics = posterior_metrics([np.full(8, -42.5), np.full(8, 3.0)])
    assert metrics == {"log_ratio_var": 0.0, "elbo": -19.75, "log_z_gap": 0.0}


@given(RATIOS, st.floats(-100, 100))
def test_the_gap_is_never_negative_and_ignores_log_z(ratios, shift):
    gap = posterior_metrics([ratios])["log_z_gap"]
    assert gap >= -1e-9
    assert posterior_metrics([ratios + shift])["log_z_gap"] == pytest.approx(gap, abs=1e-6)


def test_on_an_enumerable_target_the_estimates_meet_the_exact_values():
    """q uniform over 4 outcomes, R = (1, 2, 3, 2): log Z = log 8, ELBO = mean log(4 R)."""
    rng = np.random.default_rng(0)
    log_ratio = np.log([4.0, 8.0, 12.0, 8.0])
    metrics = posterior_metrics([log_ratio[rng.integers(0, 4, 200_000)]])
    assert metrics["elbo"] == pytest.approx(log_ratio.mean(), abs=0.01)
    assert metrics["elbo"] + metrics["log_z_gap"] == pytest.approx(np.log(8.0), abs=0.01)
    assert metrics["log_ratio_var"] == pytest.approx(log_ratio.var(), abs=0.01)


def test_log_mean_exp_does_not_overflow():
    assert log_mean_exp(np.array([1000.0, 1000.0])) == 1000.0


def test_one_sample_has_no_variance():
    with pytest.raises(ValueError, match=r"eval\.samples"):
        posterior_metrics([np.array([1.0])])


def test_texts_that_differ_only_in_case_and_spacing_are_one():
    assert distinct_fraction([" He left.", "he  left", " She left.", " He stayed."]) == 0.75


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (" He caught the bus.", True),
        (" he caught the bus", True),
        (" He caught a bus.", True),
        (" He missed the train and walked.", False),
    ],
)
def test_near_copies_of_a_given_sentence_are_found(text, expected):
    assert is_copy(text, ["It rained.", "He caught the bus."]) is expected
