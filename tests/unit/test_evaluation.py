"""Posterior diagnostics against what is known exactly, and text metrics."""

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from gfn_ray.evaluation.posterior import (
    PARETO_K_ALARM,
    PARETO_K_MIN_SAMPLES,
    log_mean_exp,
    pareto_k,
    posterior_metrics,
    query_diagnostics,
    warning,
)
from gfn_ray.evaluation.result import mean_metrics
from gfn_ray.evaluation.text import distinct_fraction, is_copy

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


def pareto_log_weights(k, size=DRAWS, seed=0):
    """Logarithms of Pareto draws of shape k: P(weight > t) = t^(-1/k)."""
    return -k * np.log(np.random.default_rng(seed).random(size))


def metrics_of(log_ratios, tempered=None):
    """Metrics of w [S] of each query; the same samples stand in for tempered ones not given."""
    hot = log_ratios if tempered is None else tempered
    each = [query_diagnostics(w, other) for w, other in zip(log_ratios, hot, strict=True)]
    return posterior_metrics(each, log_ratios)


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
    # A shift's rounding may tip a tail over the edge of what can be fitted; pareto_k has its own.
    before.pop("pareto_k", None), after.pop("pareto_k", None)
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


@pytest.mark.parametrize("shape", [0.3, 0.9])
def test_pareto_weights_have_the_shape_they_were_drawn_with(shape):
    """The estimate's standard deviation at this number of draws is 0.03 and 0.05."""
    assert pareto_k(pareto_log_weights(shape)) == pytest.approx(shape, abs=0.1)


@pytest.mark.parametrize(("shape", "alarmed"), [(0.3, False), (0.9, True)])
def test_only_heavy_tails_raise_the_alarm(shape, alarmed):
    metrics = metrics_of([pareto_log_weights(shape)])
    assert (metrics["pareto_k"] > PARETO_K_ALARM) is alarmed
    assert (warning(metrics) is not None) is alarmed


def test_the_warning_says_what_not_to_trust_and_what_to_do():
    bad = {"pareto_k": 0.94, "tempered_ratio_var": 3.0}
    for words in ("log_z_gap", "0.94", "look at tempered_ratio_var", "raise eval.samples"):
        assert words in warning(bad)
    assert warning({"pareto_k": PARETO_K_ALARM}) is None
    assert warning({"log_z_gap": 9.0}) is None


def test_queries_are_pooled_for_one_tail_whatever_their_log_z():
    """40 queries of 8 samples: too few each, 320 together, of log Z from -400 to 400."""
    queries = np.split(pareto_log_weights(0.5, size=320), 40)
    apart = [w + shift for w, shift in zip(queries, np.linspace(-400, 400, 40), strict=True)]
    assert np.isnan(query_diagnostics(queries[0], queries[0]).pareto_k)
    pooled = metrics_of(queries)["pareto_k"]
    assert metrics_of(apart)["pareto_k"] == pytest.approx(pooled, abs=1e-6)
    assert pooled == pareto_k(np.concatenate([w - log_mean_exp(w) for w in queries]))


def test_a_tail_needs_enough_samples():
    weights = pareto_log_weights(0.5, size=PARETO_K_MIN_SAMPLES)
    assert np.isfinite(pareto_k(weights))
    assert np.isnan(pareto_k(weights[1:]))
    assert "pareto_k" not in metrics_of([weights[1:]])


@pytest.mark.parametrize("noise", [0.0, 1e-12, 1e-5])
def test_constant_weights_are_a_flat_tail_however_they_are_rounded(noise):
    rounding = noise * np.random.default_rng(0).normal(size=(4, 100))
    metrics = metrics_of(list(rounding - 42.5))
    assert metrics["pareto_k"] == 0.0
    assert warning(metrics) is None


def test_a_bounded_weight_that_many_samples_share_is_a_flat_tail():
    assert pareto_k(np.log([4.0, 8.0, 12.0, 8.0] * 100)) == 0.0


def test_few_above_many_ties_have_no_shape():
    assert np.isnan(pareto_k(np.append(np.zeros(99), 50.0)))


@pytest.mark.parametrize("scale", [1.0, 100.0, 10_000.0])
def test_weights_of_any_span_have_a_shape_in_proportion(scale):
    """The span of log weights is 5 nats to 50000, far beyond what exp() can hold."""
    weights = pareto_log_weights(0.5, size=1000)
    assert pareto_k(scale * weights) == pytest.approx(0.5 * scale, rel=0.4)


@settings(max_examples=200)
@given(
    arrays(
        np.float64,
        st.integers(PARETO_K_MIN_SAMPLES, 60),
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
