"""Posterior diagnostics against what is known exactly, and text metrics."""

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from gfn_ray.evaluation.posterior import log_mean_exp, posterior_metrics, query_diagnostics
from gfn_ray.evaluation.result import mean_metrics
from gfn_ray.evaluation.text_metrics.text import distinct_fraction, is_copy
from testing.examples import examples

RATIOS = arrays(np.float64, st.integers(2, 12), elements=st.floats(-300, 300))
PER_QUERY = st.lists(RATIOS, min_size=1, max_size=4)
DRAWS = 200_000


@dataclass(frozen=True)
class Enumerable:
    """50 outcomes with random R and a random policy q; w = log R - log q of each, in nats."""

    q: np.ndarray
    w: np.ndarray
    log_z: float

    def draws(self, size, temperature=1.0):
        """w of outcomes drawn from q^(1/temperature)."""
        proposal = self.q ** (1 / temperature)
        drawn = np.random.default_rng(1).choice(len(self.q), size, p=proposal / proposal.sum())
        return self.w[drawn]


def enumerable(optimal=False):
    rng = np.random.default_rng(0)
    reward = np.exp(rng.normal(-40, 1, 50))
    q = reward if optimal else reward * np.exp(rng.normal(0, 0.7, 50))
    q = q / q.sum()
    return Enumerable(q, np.log(reward) - np.log(q), float(np.log(reward.sum())))


def metrics_of(log_ratios, tempered=None):
    """Metrics of w [S] of each query; the same samples stand in for tempered ones not given."""
    hot = log_ratios if tempered is None else tempered
    each = [query_diagnostics(w, other) for w, other in zip(log_ratios, hot, strict=True)]
    return posterior_metrics(each)


@pytest.mark.parametrize("samples", [2, 7, 64])
def test_at_the_posterior_any_samples_tell_log_z_and_all_gaps_vanish(samples):
    target = enumerable(optimal=True)
    found = query_diagnostics(target.draws(samples), target.draws(samples, temperature=2.0))
    assert found.samples == samples
    assert found.log_z == pytest.approx(target.log_z, abs=1e-12)
    assert found.elbo == pytest.approx(target.log_z, abs=1e-12)
    assert found.log_z_gap == pytest.approx(0, abs=1e-12)
    assert found.log_ratio_var == pytest.approx(0, abs=1e-12)
    assert found.tempered_ratio_var == pytest.approx(0, abs=1e-12)
    assert found.ess == pytest.approx(samples, rel=1e-12)
    assert found.ess_fraction == pytest.approx(1, abs=1e-12)


def test_metrics_are_means_over_queries():
    metrics = metrics_of(
        [np.full(8, -42.5), np.log([1.0, 3.0])], [np.full(4, -42.5), np.array([1.0, 3.0])]
    )
    elbo, log_z = np.log(3) / 2, np.log(2)
    assert metrics == pytest.approx(
        {
            "log_ratio_var": np.log(3) ** 2 / 4,
            "tempered_ratio_var": 1.0,
            "elbo": (-42.5 + elbo) / 2,
            "log_z": (-42.5 + log_z) / 2,
            "log_z_gap": (log_z - elbo) / 2,
            "ess_fraction": (1 + 16 / 10 / 2) / 2,
        }
    )


def test_on_an_enumerable_target_the_estimates_meet_the_exact_values():
    """Tolerance: 5 standard errors of the mean that each estimate is (a function of)."""
    target = enumerable()
    q, w = target.q, target.w
    ratio = np.exp(w - target.log_z)  # p/q
    elbo = q @ w
    second, fourth = q @ ratio**2, q @ ratio**4
    variance = q @ (w - elbo) ** 2
    found = query_diagnostics(target.draws(DRAWS), target.draws(DRAWS))

    def error(second_moment, mean):
        return 5 * np.sqrt((second_moment - mean**2) / DRAWS)

    log_z_error, elbo_error = error(second, 1), error(q @ w**2, elbo)
    assert max(log_z_error, elbo_error) < 0.02
    assert found.log_z == pytest.approx(target.log_z, abs=log_z_error)
    assert found.elbo == pytest.approx(elbo, abs=elbo_error)
    assert found.log_z_gap == pytest.approx(target.log_z - elbo, abs=log_z_error + elbo_error)
    assert found.log_ratio_var == pytest.approx(variance, abs=error(q @ (w - elbo) ** 4, variance))
    # ess_fraction = mean(ratio)^2 / mean(ratio^2).
    assert found.ess_fraction == pytest.approx(
        1 / second, rel=error(fourth, second) / second + 2 * log_z_error
    )


@given(RATIOS)
def test_the_gap_is_never_negative_and_ess_lies_between_one_and_all_samples(ratios):
    found = query_diagnostics(ratios, ratios)
    assert found.log_z_gap >= -1e-9
    assert found.elbo - 1e-9 <= found.log_z <= ratios.max() + 1e-9
    assert 1 - 1e-9 <= found.ess <= len(ratios) + 1e-9
    assert found.ess_fraction == found.ess / len(ratios)


@given(PER_QUERY, st.floats(-100, 100))
def test_only_elbo_and_log_z_know_the_scale_of_the_reward(ratios, shift):
    before = metrics_of(ratios, ratios)
    after = metrics_of([w + shift for w in ratios], [w + shift for w in ratios])
    for name in ("elbo", "log_z"):
        assert after.pop(name) == pytest.approx(before.pop(name) + shift, abs=1e-6)
    assert after == pytest.approx(before, rel=1e-6, abs=1e-6)


def test_a_dropped_mode_shows_in_the_tempered_variance_alone():
    """Half of the posterior lies where q has e^-8: 64 on-policy samples never go there.

    At temperature 2, 0.8% do, w of these is 8 nats above the rest, and its variance is 0.5.
    """
    q = np.append(np.full(5, (1 - np.exp(-8)) / 5), np.exp(-8))
    target = Enumerable(q, np.log([0.1] * 5 + [0.5]) - np.log(q), log_z=0.0)
    found = query_diagnostics(target.draws(64), target.draws(256, temperature=2.0))
    assert found.log_ratio_var == pytest.approx(0, abs=1e-12)
    assert found.ess_fraction == pytest.approx(1)
    assert found.log_z == pytest.approx(np.log(0.5), abs=1e-3)
    assert found.tempered_ratio_var > 0.1


@examples(200)
@given(
    arrays(
        np.float64,
        st.integers(2, 60),
        elements=st.floats(-1e4, 1e4) | st.sampled_from([0.0, 1e-5, 1.0]),
    )
)
def test_whatever_comes_the_metrics_are_finite_and_nothing_overflows(ratios):
    with np.errstate(divide="raise", over="raise", invalid="raise"):
        metrics = metrics_of([ratios, ratios], [ratios, ratios])
    assert all(np.isfinite(value) for value in metrics.values())


def test_log_mean_exp_does_not_overflow():
    assert log_mean_exp(np.array([1000.0, 1000.0])) == 1000.0


def test_one_sample_has_no_variance():
    with pytest.raises(ValueError, match=r"got 1; raise eval\.samples"):
        metrics_of([np.array([1.0])])
    with pytest.raises(ValueError, match=r"got 1; raise eval\.tempered_samples"):
        metrics_of([np.zeros(2)], [np.zeros(1)])


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


def test_a_metric_is_averaged_over_the_queries_that_have_it():
    assert mean_metrics([{"a": 1.0, "b": 2.0}, {"a": 3.0}]) == {"a": 2.0, "b": 2.0}
    assert mean_metrics([]) == {}
