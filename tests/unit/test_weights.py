"""When importance weights are to be trusted: the alarm by simulation, and by enumeration."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from gfn_ray.config import EvalConfig
from gfn_ray.config.sections import FEWEST_FOR_A_TAIL
from gfn_ray.evaluation.exact import ExactComparison
from gfn_ray.evaluation.posterior import query_diagnostics
from gfn_ray.evaluation.weights import (
    HIGHEST_LIMIT,
    WEIGHT_METRICS,
    pareto_k,
    pareto_k_limit,
    warnings,
    weight_diagnostics,
    weight_metrics,
)
from gfn_ray.tasks.random_number.config import RandomNumberJob
from testing.examples import examples

DRAWS = 200_000
FITS = 600  # of k in one simulation
ONE = RandomNumberJob().eval
SIZES = [
    (EvalConfig().diagnostic_queries, EvalConfig().diagnostic_samples),
    (24, FEWEST_FOR_A_TAIL),
    (ONE.queries, ONE.diagnostic_samples),
]
"""Queries and samples of each: by default, at most, and where there is one query only."""


def pareto_log_weights(k, size=DRAWS, seed=0):
    """Logarithms of Pareto draws of shape k: P(weight > t) = t^(-1/k)."""
    return -k * np.log(np.random.default_rng(seed).random(size))


def diagnosed(*log_ratios):
    return [weight_diagnostics(w) for w in log_ratios]


def alarms(each):
    return any("cannot be trusted" in said for said in warnings(each))


def alarm_rate(draw, queries, samples):
    """Share of runs with an alarm, whose w [samples] of each query come from draw(rng, size)."""
    rng = np.random.default_rng(0)
    runs = [
        diagnosed(*(draw(rng, samples) for _ in range(queries))) for _ in range(FITS // queries)
    ]
    return np.mean([alarms(each) for each in runs])


@pytest.mark.parametrize(("queries", "samples"), SIZES)
def test_weights_that_nothing_can_be_estimated_from_raise_the_alarm(queries, samples):
    """w of 3 nats: a true KL(q || p) of 4.5 nats reads 3.7 of 64 samples, and 2.6 of 8."""
    assert alarm_rate(lambda rng, size: rng.normal(-40, 3, size), queries, samples) >= 0.9


@pytest.mark.parametrize(("queries", "samples"), SIZES)
def test_harmless_weights_raise_no_alarm(queries, samples):
    assert alarm_rate(lambda rng, size: rng.normal(-40, 0.5, size), queries, samples) <= 0.05


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_samples_far_below_the_target_are_no_heavy_tail(scale):
    """w skewed to the left: exp(w) is bounded, whatever the variance of w."""
    assert alarm_rate(lambda rng, size: -rng.exponential(scale, size), 6, 64) <= 0.02


def test_good_queries_do_not_hide_one_that_is_far_off():
    def draw(rng, size):
        deviation = 0.5 if len(seen) % 6 else 10.0
        seen.append(deviation)
        return rng.normal(0, deviation, size)

    seen: list[float] = []
    assert alarm_rate(draw, 6, 64) >= 0.9


def test_the_weights_of_a_query_are_judged_by_that_query_alone():
    """Whatever its log Z, and whatever the others are like."""
    heavy, light = pareto_log_weights(1.5, 64), pareto_log_weights(0.1, 64)
    alone = weight_diagnostics(heavy)
    shifted = weight_diagnostics(heavy + 300)
    assert shifted.pareto_k == pytest.approx(alone.pareto_k, abs=1e-6)
    metrics = weight_metrics(diagnosed(heavy, light - 400, light + 400))
    assert metrics["pareto_k_above"] == pytest.approx(1 / 3)
    assert metrics["diagnostic_log_z_gap"] == pytest.approx(
        np.mean([alone.diagnostic_log_z_gap, *[diagnosed(light)[0].diagnostic_log_z_gap] * 2])
    )


@pytest.mark.parametrize(("spread", "alarmed"), [(0.3, False), (4.0, True)])
def test_by_enumeration_more_samples_are_nearer_the_truth_and_the_alarm_knows_if_near_enough(
    spread, alarmed
):
    """3,000 outcomes. Where the alarm is silent, 64 samples tell KL(q || p) to a few hundredths;
    where it is raised, they miss more than a tenth of it."""
    rng = np.random.default_rng(0)
    log_q = rng.normal(0, 1, 3000)
    log_q -= np.logaddexp.reduce(log_q)
    log_reward = log_q + rng.normal(0, spread, 3000)
    w = log_reward - log_q
    log_p = log_reward - np.logaddexp.reduce(log_reward)
    kl = ExactComparison(log_p, log_q).metrics()["kl_q_target"]
    ess_fraction = 1 / np.sum(np.exp(2 * log_p - log_q))
    drawn = [w[rng.choice(3000, 64, p=np.exp(log_q))] for _ in range(200)]
    many = diagnosed(*drawn)
    few = [query_diagnostics(one[:8], one[:8]) for one in drawn]

    gap_of_few = np.mean([one.log_z_gap for one in few])
    gap_of_many = np.mean([one.diagnostic_log_z_gap for one in many])
    assert gap_of_few < gap_of_many < kl
    ess_of_few = np.mean([one.ess_fraction for one in few])
    ess_of_many = np.mean([one.diagnostic_ess_fraction for one in many])
    assert ess_of_few > ess_of_many > ess_fraction
    assert alarms(many) is alarmed
    assert (gap_of_many > 0.9 * kl) is not alarmed


@pytest.mark.parametrize("shape", [0.3, 0.9])
def test_pareto_weights_have_the_shape_they_were_drawn_with(shape):
    """The estimate's standard deviation at this number of draws is 0.03 and 0.05."""
    assert pareto_k(pareto_log_weights(shape)) == pytest.approx(shape, abs=0.1)


@pytest.mark.parametrize(("shape", "alarmed"), [(0.3, False), (0.9, True)])
def test_only_heavy_tails_raise_the_alarm(shape, alarmed):
    each = diagnosed(pareto_log_weights(shape))
    assert (weight_metrics(each)["pareto_k_above"] == 1) is alarmed
    assert alarms(each) is alarmed


@pytest.mark.parametrize(("samples", "limit"), [(64, 0.4463), (1000, 2 / 3), (2200, 0.7)])
def test_fewer_samples_must_have_lighter_tails(samples, limit):
    assert pareto_k_limit(samples) == pytest.approx(limit, abs=1e-3)
    assert pareto_k_limit(10**6) == HIGHEST_LIMIT


def test_the_warning_says_what_not_to_trust_and_what_to_do():
    light, heavy = pareto_log_weights(0.1, 64), pareto_log_weights(2.0, 64)
    (said,) = warnings(diagnosed(light, heavy, heavy))
    for words in (
        "log_z, log_z_gap and ess_fraction cannot be trusted",
        "above its limit, 0.45, in 2 of 3 diagnostic queries",
        f"the largest is {pareto_k(heavy):.2f}",
        "look at tempered_ratio_var",
        "raise eval.diagnostic_samples",
    ):
        assert words in said
    assert warnings(diagnosed(light)) == []


def test_a_run_that_does_not_look_says_so():
    assert weight_metrics([]) == {}
    (said,) = warnings([])
    assert said.startswith("eval.diagnostic_queries is 0: whether log_z, log_z_gap")


def test_a_tail_needs_enough_samples():
    weights = pareto_log_weights(0.5, size=FEWEST_FOR_A_TAIL)
    assert np.isfinite(pareto_k(weights))
    with pytest.raises(ValueError, match=r"64 samples per query, got 63; raise eval\.diagnostic"):
        weight_diagnostics(weights[1:])


@pytest.mark.parametrize("noise", [0.0, 1e-12, 1e-5, 0.02])
def test_the_posterior_itself_is_no_alarm_however_its_weights_are_rounded(noise):
    rounding = noise * np.random.default_rng(0).normal(size=(4, 100))
    each = diagnosed(*(rounding - 42.5))
    assert [one.pareto_k for one in each] == [0.0] * 4
    assert weight_metrics(each) == pytest.approx(
        dict(zip(WEIGHT_METRICS, (0.0, 1.0, 0.0, 0.0), strict=True)), abs=1e-3
    )
    assert warnings(each) == []


def test_a_bounded_weight_that_many_samples_share_is_a_flat_tail():
    assert pareto_k(np.log([4.0, 8.0, 12.0, 8.0] * 100)) == 0.0


def test_few_above_many_ties_have_no_shape_and_that_is_said():
    unfitted = weight_diagnostics(np.append(np.zeros(99), 50.0))
    assert np.isnan(unfitted.pareto_k)
    each = [unfitted, *diagnosed(pareto_log_weights(0.1, 64))]
    metrics = weight_metrics(each)
    assert (metrics["pareto_k_above"], metrics["pareto_k_unfitted"]) == (0.0, 0.5)
    (said,) = warnings(each)
    assert "cannot be fitted in 1 of 2 diagnostic queries" in said
    assert len(warnings([unfitted])) == 1


@pytest.mark.parametrize("scale", [1.0, 100.0, 10_000.0])
def test_weights_of_any_span_have_a_shape_in_proportion(scale):
    """The span of log weights is 5 nats to 50000, far beyond what exp() can hold."""
    weights = pareto_log_weights(0.5, size=1000)
    assert pareto_k(scale * weights) == pytest.approx(0.5 * scale, rel=0.4)


@examples(200)
@given(
    arrays(
        np.float64,
        st.integers(FEWEST_FOR_A_TAIL, 100),
        elements=st.floats(-1e4, 1e4) | st.sampled_from([0.0, 1e-5, 1.0]),
    )
)
def test_whatever_comes_the_metrics_are_finite_and_nothing_overflows(ratios):
    with np.errstate(divide="raise", over="raise", invalid="raise"):
        each = diagnosed(ratios, ratios)
    metrics = weight_metrics(each)
    assert tuple(metrics) == WEIGHT_METRICS
    assert all(np.isfinite(value) for value in metrics.values())
    assert all("nan" not in said for said in warnings(each))
