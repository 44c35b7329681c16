"""Exact metrics of a policy against hand-computed values and the inequalities they must obey."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gfn_ray.evaluation.exact import ExactComparison

WEIGHTS = st.lists(
    st.tuples(st.floats(1e-6, 1.0), st.floats(1e-6, 1.0)), min_size=1, max_size=12
).map(lambda pairs: np.array(pairs).T)


def logs(*probabilities):
    with np.errstate(divide="ignore"):
        return np.log(np.array(probabilities, dtype=np.float64))


def exact_metrics(log_target, log_q):
    return ExactComparison(log_target, log_q).metrics()


def extremes(log_target, log_q, count):
    return ExactComparison(log_target, log_q).extremes(count)


def normalised(weights):
    return weights / weights.sum()


@given(WEIGHTS, st.floats(0.01, 1.0))
def test_bounds_and_pinsker(weights, valid):
    p, q = normalised(weights[0]), normalised(weights[1])
    whole = exact_metrics(np.log(p), np.log(q))
    part = exact_metrics(np.log(p), np.log(q * valid))
    for metrics in (whole, part):
        assert 0 <= metrics["tv"] <= 1
        assert metrics["kl_target_q"] >= 0
        assert metrics["kl_q_target"] >= 0
    assert whole["valid_mass"] == pytest.approx(1)
    assert part["valid_mass"] == pytest.approx(valid)
    for name in ("kl_target_q", "kl_q_target"):
        assert whole["tv"] ** 2 <= whole[name] / 2 + 1e-12
    # Equal on the support after renormalising, and log valid further from the target.
    assert part["kl_q_target"] == pytest.approx(whole["kl_q_target"], abs=1e-9)
    assert part["kl_target_q"] == pytest.approx(whole["kl_target_q"] - math.log(valid), abs=1e-9)
    assert part["tv"] >= (1 - valid) - 1e-12


@given(WEIGHTS)
def test_all_distances_vanish_exactly_where_the_two_are_equal(weights):
    p, q = normalised(weights[0]), normalised(weights[1])
    same = exact_metrics(np.log(p), np.log(p))
    for name in ("tv", "kl_target_q", "kl_q_target"):
        assert same[name] == pytest.approx(0, abs=1e-12)
    gap = np.abs(p - q).max()
    other = exact_metrics(np.log(p), np.log(q))
    assert other["tv"] >= gap / 2 - 1e-12
    if gap > 1e-4:
        assert other["kl_target_q"] > 0
        assert other["kl_q_target"] > 0


def test_hand_computed():
    """p = (1/2, 1/4, 1/4), q = (1/4, 1/4, 1/4) and 1/4 invalid."""
    metrics = exact_metrics(logs(0.5, 0.25, 0.25), logs(0.25, 0.25, 0.25))
    assert metrics == pytest.approx(
        {
            "tv": (0.25 + 0.25) / 2,
            "kl_target_q": 0.5 * math.log(2),
            "kl_q_target": (math.log(2 / 3) + 2 * math.log(4 / 3)) / 3,
            "valid_mass": 0.75,
        }
    )


def test_invalid_mass_counts_in_tv_and_not_in_the_renormalised_kl():
    p = logs(0.5, 0.5)
    assert exact_metrics(p, logs(0.4, 0.4)) == pytest.approx(
        {"tv": 0.2, "kl_target_q": math.log(1.25), "kl_q_target": 0.0, "valid_mass": 0.8}
    )


def test_outcomes_without_target_mass_are_invalid():
    inside = exact_metrics(logs(0.5, 0.5, 0.0), logs(0.3, 0.5, 0.2))
    missing = exact_metrics(logs(0.5, 0.5), logs(0.3, 0.5))
    assert inside == missing
    assert inside["valid_mass"] == pytest.approx(0.8)
    assert inside["tv"] == pytest.approx(0.2)


def test_an_outcome_the_policy_never_writes():
    metrics = exact_metrics(logs(0.5, 0.5), logs(1.0, 0.0))
    assert metrics["kl_target_q"] == math.inf
    assert metrics["kl_q_target"] == pytest.approx(math.log(2))
    assert metrics["tv"] == pytest.approx(0.5)


def test_a_policy_without_valid_mass():
    metrics = exact_metrics(logs(1.0, 0.0), logs(0.0, 1.0))
    infinite = math.inf
    assert metrics == {
        "tv": 1.0,
        "kl_target_q": infinite,
        "kl_q_target": infinite,
        "valid_mass": 0.0,
    }


def test_tiny_probabilities_stay_finite():
    tail = np.array([0.0, -5000.0])
    assert exact_metrics(tail, tail[::-1])["kl_target_q"] == pytest.approx(5000)
    unlikely = exact_metrics(logs(0.5, 0.5), np.array([-2000.0, -2000.0]))
    assert unlikely["kl_q_target"] == pytest.approx(0)
    assert unlikely["kl_target_q"] == pytest.approx(2000 - math.log(2))


def test_rounding_of_a_float32_model_is_forgiven():
    metrics = exact_metrics(logs(0.5, 0.5), logs(0.5, 0.5) + 5e-5)
    assert metrics["valid_mass"] == pytest.approx(1, abs=1e-15)
    assert metrics["tv"] == pytest.approx(0, abs=1e-15)


@pytest.mark.parametrize(
    ("log_target", "log_q", "message"),
    [
        (logs(0.5, 0.5), logs(0.5, 0.25, 0.25), r"shapes \(2,\) and \(3,\)"),
        (logs(0.5, 0.5)[None], logs(0.5, 0.5)[None], r"shapes \(1, 2\)"),
        (logs(), logs(), "N >= 1"),
        (logs(0.5, 0.49), logs(0.5, 0.5), "target's probabilities sum to 0.99"),
        (np.array([np.nan, 0.0]), logs(0.5, 0.5), "target's probabilities sum to nan"),
        (logs(0.5, 0.5), logs(0.6, 0.5), "policy's probabilities sum to 1.1"),
        (logs(0.5, 0.5), np.array([np.nan, 0.0]), "policy's probabilities sum to nan"),
    ],
)
def test_what_is_no_distribution_is_refused(log_target, log_q, message):
    with pytest.raises(ValueError, match=message):
        ExactComparison(log_target, log_q)


def test_extremes_are_ordered_by_ratio_and_skip_what_is_right_or_unsupported():
    p = logs(0.125, 0.125, 0.25, 0.25, 0.25, 0.0)
    q = logs(0.25, 0.5, 0.1, 0.05, 0.0, 0.1)
    over, under = extremes(p, q, 10)
    assert over.tolist() == [1, 0]
    assert under.tolist() == [4, 3, 2]
    over, under = extremes(p, q, 1)
    assert (over.tolist(), under.tolist()) == ([1], [4])
    assert [len(part) for part in extremes(p, p, 3)] == [0, 0]
    with pytest.raises(ValueError, match="count"):
        extremes(p, q, -1)


@given(WEIGHTS, st.floats(-500, 500))
def test_a_target_may_be_known_up_to_a_constant(weights, constant):
    p, q = normalised(weights[0]), normalised(weights[1])
    found = ExactComparison.unnormalised(np.log(p) + constant, np.log(q), "uniform").metrics()
    expected = ExactComparison(np.log(p), np.log(q), "uniform").metrics()
    assert set(found) == {"tv", "kl_uniform_q", "kl_q_uniform", "valid_mass"}
    assert found == pytest.approx(expected, abs=1e-9)
