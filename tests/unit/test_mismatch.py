"""Whether sampler and learner have the same weights: a distance, and a share without a unit."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gfn_ray.evaluation.mismatch import FEWEST_TOKENS, mismatch_kl, share_of_change

NATS = st.floats(-5, 5)


def test_opposite_errors_do_not_cancel():
    learner = np.array([-30.0, -40.0])
    assert mismatch_kl(learner + np.array([1.0, -1.0]), learner) > 0.5


@given(st.lists(st.tuples(NATS, NATS), min_size=1, max_size=20))
def test_no_sample_makes_the_distance_smaller_than_nothing(pairs):
    engine, learner = np.array(pairs).T
    terms = [mismatch_kl(engine[[i]], learner[[i]]) for i in range(len(pairs))]
    assert min(terms) >= -1e-15
    assert mismatch_kl(engine, learner) == pytest.approx(np.mean(terms))


def test_its_mean_over_samples_is_the_divergence_itself():
    """Enumerated: the expectation of k3 under p is KL(p || q)."""
    p, q = np.array([0.5, 0.3, 0.2]), np.array([0.2, 0.2, 0.6])
    terms = [mismatch_kl(np.log(p[[i]]), np.log(q[[i]])) for i in range(3)]
    assert p @ terms == pytest.approx(float(p @ np.log(p / q)))


def test_samples_whose_log_q_the_engine_does_not_know_are_left_out():
    engine, learner = np.array([-1.0, np.nan, -2.0]), np.array([-1.0, -9.0, -2.0])
    assert mismatch_kl(engine, learner) == 0.0


def samples(share, noise, change=0.5, shift=0.0, size=16, seed=0):
    """Log q of samples by an engine that has this share of a change of weights."""
    rng = np.random.default_rng(seed)
    old = rng.normal(-40, 10, size)
    new = old + rng.normal(0.1, change, size)
    engine = old + share * (new - old) + rng.normal(shift, noise, size)
    return engine, new, old


@pytest.mark.parametrize("share", [0.0, 1.0])
@pytest.mark.parametrize(
    ("noise", "change"), [(1e-5, 1e-2), (0.2, 0.5), (0.2, 3.0)], ids=["float32", "bf16", "later"]
)
def test_the_share_is_found_within_its_error_whatever_the_precision(share, noise, change):
    found = [share_of_change(*samples(share, noise, change, seed=s), least=1e-3) for s in range(99)]
    wrong = [abs(one.value - share) / one.error for one in found]
    assert np.quantile(wrong, 0.9) < 2.0
    assert np.median([one.error for one in found]) < 1.3 * noise / change / 4


def test_what_shifts_all_tokens_alike_is_no_change_of_weights():
    assert share_of_change(*samples(0.0, 0.1, shift=2.0), least=1e-3).value < 0.2


def test_a_change_below_rounding_and_a_handful_of_tokens_tell_nothing():
    engine, new, old = samples(1.0, 1e-5, change=1e-5)
    assert share_of_change(engine, new, old, least=1e-3) is None
    assert share_of_change(engine, old, old, least=1e-3) is None
    few = slice(FEWEST_TOKENS - 1)
    engine, new, old = samples(1.0, 1e-5)
    assert share_of_change(engine[few], new[few], old[few], least=1e-3) is None
