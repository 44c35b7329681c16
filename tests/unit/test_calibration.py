"""Calibration by exact draws, against posteriors of which everything is known."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest

from gfn_ray.evaluation.calibration import (
    CALIBRATION_METRICS,
    SEEN_MODE,
    SimulatedScores,
    calibration_findings,
    calibration_metrics,
    change_of_missed,
    interval,
    judge,
)
from gfn_ray.evaluation.exact import ExactComparison
from gfn_ray.evaluation.records import evaluation_from_record, evaluation_to_record
from gfn_ray.evaluation.result import Evaluation
from gfn_ray.storage.serialization import pack, unpack

OUTCOMES, SAMPLES, SEEDS = 40, 4, 100
POLICIES = {
    "untrained": lambda p, q0, mode: q0,
    "half way": lambda p, q0, mode: 0.5 * p + 0.5 * q0,
    "between": lambda p, q0, mode: 0.4 * p + 0.6 * q0,
    "T = .85": lambda p, q0, mode: p / 0.85,
    "T = 1.3": lambda p, q0, mode: p / 1.3,
    "lost 20 %": lambda p, q0, mode: np.where(mode >= 0.8, p - 13, p),
    "lost 30 %": lambda p, q0, mode: np.where(mode >= 0.7, p - 6, p),
}


@dataclass(frozen=True)
class Problem:
    """One query: log R of every outcome, unnormalised, and a policy's log q."""

    log_r: np.ndarray
    log_q: np.ndarray

    @property
    def jeffreys(self) -> float:
        exact = ExactComparison.unnormalised(self.log_r, self.log_q)
        return exact.kl_target_q + exact.kl_q_target

    def kls(self):
        exact = ExactComparison.unnormalised(self.log_r, self.log_q)
        return exact.kl_q_target, exact.kl_target_q


def normalised(values):
    return values - np.logaddexp.reduce(values)


def problems(policy, count=8):
    """Queries with different posteriors, scaled so that log Z differs by many nats."""
    found = []
    for seed in range(count):
        rng = np.random.default_rng(seed)
        p = normalised(rng.normal(0, 1.5, OUTCOMES))
        q0 = normalised(p + rng.normal(0, 1.5, OUTCOMES))
        order = np.argsort(rng.random(OUTCOMES))
        below = np.empty(OUTCOMES)  # mass of the outcomes before each, in a random order
        below[order] = np.cumsum(np.exp(p)[order]) - np.exp(p)[order]
        log_r = p + 20 * rng.normal()
        found.append(Problem(log_r, normalised(POLICIES[policy](p, q0, below))))
    return found


def measured(known, rng, count, log_density=None):
    """Simulated queries: z* by the density, which is the posterior unless it is said, and samples
    of q."""
    found = []
    for index in range(count):
        one = known[index % len(known)]
        density = one.log_r if log_density is None else log_density(one)
        exact = rng.choice(OUTCOMES, p=np.exp(normalised(density)))
        z = np.array([exact, *rng.choice(OUTCOMES, SAMPLES, p=np.exp(one.log_q))])
        found.append(
            SimulatedScores(
                str(index), density[exact], one.log_r[z], np.zeros(len(z)), one.log_q[z], z + 1.0
            )
        )
    return found


def exact_mean(known, count, of):
    return np.mean([of(known[index % len(known)]) for index in range(count)])


@pytest.mark.parametrize("policy", POLICIES)
def test_jeffreys_lies_in_its_interval_and_each_kl_in_its_bracket(policy):
    known, count = problems(policy), 100
    truth = exact_mean(known, count, lambda one: one.jeffreys)
    found = [
        calibration_metrics(measured(known, np.random.default_rng(seed), count), 1.0)
        for seed in range(SEEDS)
    ]
    covered = [one["jeffreys_low"] <= truth <= one["jeffreys_high"] for one in found]
    assert np.mean(covered) >= 0.9
    mean = {name: np.mean([one[name] for one in found]) for name in CALIBRATION_METRICS}
    error = np.std([one["jeffreys"] for one in found]) / SEEDS**0.5
    assert abs(mean["jeffreys"] - truth) < 4 * error
    for kl, name in enumerate(("kl_q_p", "kl_p_q")):
        true_kl = exact_mean(known, count, lambda one, kl=kl: one.kls()[kl])
        assert mean[f"{name}_low"] - 4 * error < true_kl < mean[f"{name}_high"] + 4 * error


def test_at_the_posterior_every_number_says_so():
    known = [replace(one, log_q=normalised(one.log_r)) for one in problems("untrained")]
    found = calibration_metrics(measured(known, np.random.default_rng(0), 24), 1.0)
    for name in ("jeffreys", "jeffreys_low", "jeffreys_high", "kl_q_p_high", "kl_p_q_high"):
        assert found[name] == pytest.approx(0, abs=1e-9)
    assert found["posterior_rank"] == pytest.approx(0.5)
    assert found["posterior_rank_p"] == pytest.approx(1)
    assert found["simulated_ess"] == pytest.approx(1)


def test_a_lost_mode_shows_from_three_times_its_share_of_queries():
    """One of twenty measurements misses a mode of mass 3/N, by the draws alone."""
    for lost, policy in ((0.2, "lost 20 %"), (0.3, "lost 30 %")):
        known = problems(policy)
        count = int(np.ceil(SEEN_MODE / lost))
        seen = [
            calibration_metrics(measured(known, np.random.default_rng(seed), count), 1.0)
            for seed in range(SEEDS)
        ]
        assert np.mean([one["jeffreys"] > 0.3 for one in seen]) >= 0.85
        few = [
            calibration_metrics(measured(known, np.random.default_rng(seed), 2), 1.0)
            for seed in range(SEEDS)
        ]
        assert np.mean([one["jeffreys"] > 0.3 for one in few]) < 0.75


def test_ranks_by_weight_see_a_lost_mode_that_samples_alone_do_not():
    known, rng = problems("lost 20 %"), np.random.default_rng(0)
    found = measured(known, rng, 400)
    metrics = calibration_metrics(found, 1.0)
    assert metrics["posterior_rank"] > 0.55 and metrics["posterior_rank_p"] < 1e-3
    # The samples' own weights are constant: by them this policy is perfect.
    assert np.median([np.ptp((one.log_reward - one.log_q)[1:]) for one in found]) < 1e-9


def tilted(one):
    """A density of draws that is not the posterior: it prefers what the policy misses."""
    return one.log_r + 0.5 * (normalised(one.log_r) - one.log_q)


def test_draws_that_are_not_exact_need_their_weights():
    known, count = problems("half way"), 400
    # Weights count a query by its share of what the density gives to the target.
    shares = [
        np.exp(np.logaddexp.reduce(one.log_r) - np.logaddexp.reduce(tilted(one))) for one in known
    ]
    truth = np.average([one.jeffreys for one in known], weights=shares)
    right = measured(known, np.random.default_rng(0), count, tilted)
    # As if each z* were exact: the weights are left out.
    wrong = [replace(one, log_density=one.log_reward[0]) for one in right]
    weighted, unweighted = (calibration_metrics(each, 1.0) for each in (right, wrong))
    assert weighted["jeffreys_low"] <= truth <= weighted["jeffreys_high"]
    assert not unweighted["jeffreys_low"] <= truth <= unweighted["jeffreys_high"]
    assert weighted["simulated_ess"] < unweighted["simulated_ess"] == pytest.approx(1)


def test_another_temperature_is_measured_by_weights_as_long_as_they_carry():
    """Draws of R weigh R^(1/T - 1); where few of them would count, R itself is the measure."""
    known = [Problem(one.log_r - one.log_r.max(), one.log_q) for one in problems("T = 1.3")]
    each = measured(known, np.random.default_rng(0), 200)
    _, own = judge(each, 0.9)
    assert own
    _, own = judge(each, 1e-3)
    assert not own
    said = calibration_findings(each, each, calibration_metrics(each, 1e-3), 1e-3, written=True)
    assert any("T = 1" in line and "reward.temperature_end 0.001" in line for line in said)
    at_one = calibration_metrics(each, 1.0)
    assert calibration_metrics(each, 1e-3) == pytest.approx(at_one)


def test_the_change_of_the_missed_kl_needs_no_reward():
    before, after = problems("untrained"), problems("half way")
    truth = np.mean([b.kls()[1] - a.kls()[1] for a, b in zip(before, after, strict=True)])
    sides = [measured(known, np.random.default_rng(0), 400) for known in (before, after)]
    # The same z* on both sides, as one seed draws them before the samples of the first query only.
    shared = [
        replace(one, log_q=np.full(1 + SAMPLES, after[index % 8].log_q[int(one.tokens[0]) - 1]))
        for index, one in enumerate(sides[0])
    ]
    found = change_of_missed(sides[0], shared, 1.0)
    assert found is not None and found.low <= truth <= found.high < 0
    other = [replace(one, log_density=one.log_density + 1) for one in shared]
    assert change_of_missed(sides[0], other, 1.0) is None


def test_equal_weights_give_the_usual_t_interval():
    values = np.array([1.0, 2.0, 4.0])
    found = interval(values, np.full(3, 1 / 3))
    assert found.mean == pytest.approx(7 / 3)
    assert found.high - found.mean == pytest.approx(4.302653 * values.std(ddof=1) / 3**0.5)


def test_one_query_is_no_measurement():
    one = measured(problems("untrained"), np.random.default_rng(0), 1)
    assert calibration_metrics(one, 1.0) == {}
    assert calibration_findings(one, one, {}, 1.0, written=True) == []


def test_the_report_says_what_cannot_be_seen():
    each = measured(problems("untrained"), np.random.default_rng(0), 24)
    said = calibration_findings(each, each, calibration_metrics(each, 1.0), 1.0, written=True)
    assert "not as the data do; a lost mode below 12%" in said[0]
    of_data = calibration_findings(each, each, calibration_metrics(each, 1.0), 1.0, written=False)
    assert "is of 24 queries; a lost mode" in of_data[0]


def test_an_estimate_that_few_queries_carry_is_said_not_to_be_trusted():
    known = problems("untrained")
    each = measured(known, np.random.default_rng(0), 24, lambda one: 0.1 * one.log_r)
    metrics = calibration_metrics(each, 1.0)
    assert metrics["simulated_ess"] < 0.3
    assert any(
        "do not trust it" in line
        for line in calibration_findings(each, each, metrics, 1.0, written=True)
    )


def test_a_stored_measurement_is_read_back_as_it_was():
    each = measured(problems("untrained"), np.random.default_rng(0), 3)
    stored = Evaluation({}, [], [], 0.0, simulated=each)
    read = evaluation_from_record(unpack(pack(evaluation_to_record(stored))), {}).simulated
    assert calibration_metrics(read, 1.0) == calibration_metrics(each, 1.0)
    assert [one.row() for one in read] == [one.row() for one in each]
