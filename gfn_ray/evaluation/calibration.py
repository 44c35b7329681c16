"""Distances of a policy from its posterior, from exact draws z* of it on simulated queries.

With w = log R(z)/T - log q(z), the mean of w over samples is log Z - KL(q || p), and over exact
draws it is log Z + KL(p || q): their difference is Jeffreys' divergence, without bias and without
log Z. Unlike diagnostics of samples alone it sees what the policy never draws. Pure numpy.

The draws belong to queries that the LM writes, not to the data's. A mode of mass m is in one draw
of 1/m, so a lost mode below 3/N goes unseen in one of twenty measurements of N queries.
Sources: Grosse et al. 2015 (bidirectional Monte Carlo); Zhao et al. 2024 (bounds for LMs).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from gfn_ray.evaluation.posterior import Array, effective_samples, log_mean_exp
from gfn_ray.evaluation.weights import TIE_NATS

COVERAGE = 0.95
# Below, too few queries carry the estimate: 24 at this share are seven.
LEAST_ESS_FRACTION = 0.3
# A mode of this many times 1/N is seen in 95 % of measurements: exp(-3) = 0.05.
SEEN_MODE = 3

CALIBRATION_METRICS = (
    "jeffreys",
    "jeffreys_low",
    "jeffreys_high",
    "kl_q_p_low",
    "kl_q_p_high",
    "kl_p_q_low",
    "kl_p_q_high",
    "eubo",
    "simulated_elbo",
    "posterior_rank",
    "posterior_rank_p",
    "posterior_length",
    "simulated_length",
    "simulated_ess",
)
"""Metrics of `calibration_metrics`, measured at the start and end of a run, and on the way if one
of them may stop it."""


@dataclass(frozen=True)
class SimulatedScores:
    """One simulated query; entry 0 of each array [1 + S] is z*, the others are samples of q.

    log_reward: untempered log R. log_reference: what the objective adds to log R/T. log_q: of the
    whole z. tokens: length. log_density: see `SimulatedQuery`.
    """

    query_id: str
    log_density: float
    log_reward: Array
    log_reference: Array
    log_q: Array
    tokens: Array

    def row(self) -> dict[str, float]:
        """Its own share of the metrics, as columns of simulated.jsonl: against R itself, at T = 1,
        of which z* is an exact draw, so that their means need no weights."""
        w = self.log_reward - self.log_q
        return {
            "log_density": self.log_density,
            "jeffreys": float(w[0] - w[1:].mean()),
            "eubo": float(w[0]),
            "simulated_elbo": float(w[1:].mean()),
            "log_pf_posterior": float(self.log_q[0]),
            "posterior_length": float(self.tokens[0]),
            "simulated_length": float(self.tokens[1:].mean()),
        }

    def log_target(self, temperature: float) -> Array:
        """log R/T of the policy's target [1 + S]."""
        target: Array = self.log_reward / temperature + self.log_reference
        return target


@dataclass(frozen=True)
class Interval:
    """A mean and its 95 % t interval."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Judged:
    """Simulated queries against one target. ratios [N, 1 + S]: w of z*, then of samples.
    log_weights [N]: log of target over density of z*, constant where z* is exact."""

    ratios: Array
    log_weights: Array

    @staticmethod
    def under(each: Sequence[SimulatedScores], temperature: float) -> Judged:
        targets = np.array([one.log_target(temperature) for one in each])
        return Judged._of(each, targets)

    @staticmethod
    def under_posterior(each: Sequence[SimulatedScores]) -> Judged:
        """Against R itself: T = 1, whatever the objective adds."""
        return Judged._of(each, np.array([one.log_reward for one in each]))

    @staticmethod
    def _of(each: Sequence[SimulatedScores], targets: Array) -> Judged:
        densities = np.array([one.log_density for one in each])
        return Judged(targets - np.array([one.log_q for one in each]), targets[:, 0] - densities)

    @property
    def ess_fraction(self) -> float:
        return effective_samples(self.log_weights) / len(self.log_weights)

    @property
    def weights(self) -> Array:
        """Normalised weights of the queries [N]."""
        weights = np.exp(self.log_weights - self.log_weights.max())
        normalised: Array = weights / weights.sum()
        return normalised


def judge(each: Sequence[SimulatedScores], temperature: float) -> tuple[Judged, bool]:
    """Returns the queries against the policy's target, and True. Where too few draws would carry
    the estimate, against the posterior at T = 1 instead, and False."""
    own = Judged.under(each, temperature)
    posterior = Judged.under_posterior(each)
    # Queries that are exact for the posterior stay so, whatever rounding does to their weights.
    if own.ess_fraction >= min(LEAST_ESS_FRACTION, posterior.ess_fraction):
        return own, True
    return posterior, False


def calibration_metrics(each: Sequence[SimulatedScores], temperature: float) -> dict[str, float]:
    """Returns CALIBRATION_METRICS of two or more simulated queries; empty for fewer.

    Every mean over queries is weighted by `Judged.weights`. With one z* and S samples of q, the log
    of the mean of all their exp w is above log Z on average, and that of the samples alone below.
    """
    if len(each) < 2:
        return {}
    judged, _ = judge(each, temperature)
    w, weights = judged.ratios, judged.weights
    eubo, elbo = float(weights @ w[:, 0]), float(weights @ w[:, 1:].mean(axis=1))
    above = float(weights @ [log_mean_exp(row) for row in w])
    below = float(weights @ [log_mean_exp(row[1:]) for row in w])
    jeffreys = interval(w[:, 0] - w[:, 1:].mean(axis=1), weights)
    rank = float(weights @ ranks(judged))
    # Of a rank that is uniform over 0..S; ties only lower it.
    samples = w.shape[1] - 1
    deviation = math.sqrt(float(weights @ weights) * (samples + 2) / (12 * samples))
    tokens = np.array([one.tokens for one in each])
    found = (
        jeffreys.mean,
        jeffreys.low,
        jeffreys.high,
        below - elbo,
        above - elbo,
        eubo - above,
        eubo - below,
        eubo,
        elbo,
        rank,
        math.erfc(abs(rank - 0.5) / deviation / math.sqrt(2)),
        float(weights @ tokens[:, 0]),
        float(weights @ tokens[:, 1:].mean(axis=1)),
        judged.ess_fraction,
    )
    return dict(zip(CALIBRATION_METRICS, found, strict=True))


def interval(values: Array, weights: Array) -> Interval:
    """Returns the weighted mean of values [N >= 2] and its t interval; weights [N] sum to 1.

    With equal weights this is the usual interval; else it has one degree of freedom less than the
    effective number of values.
    """
    from scipy.special import stdtrit  # takes a tenth of a second

    mean = float(weights @ values)
    size, effective = len(values), 1 / float(weights @ weights)
    error = math.sqrt(float(weights**2 @ (values - mean) ** 2) * size / (size - 1))
    half = error * float(stdtrit(max(1.0, effective - 1), (1 + COVERAGE) / 2))
    return Interval(mean, mean - half, mean + half)


def change_of_missed(
    before: Sequence[SimulatedScores], after: Sequence[SimulatedScores], temperature: float
) -> Interval | None:
    """How KL(p || q) changed: the mean of log q before less log q after, of the same z*.

    Needs no log Z, and no samples. None unless both have the same two or more draws.
    """
    sides = [[(one.query_id, one.log_density) for one in side] for side in (before, after)]
    if sides[0] != sides[1] or len(before) < 2:
        return None
    weights = judge(after, temperature)[0].weights
    return interval(
        np.array([one.log_q[0] - other.log_q[0] for one, other in zip(before, after, strict=True)]),
        weights,
    )


def calibration_findings(
    before: Sequence[SimulatedScores],
    after: Sequence[SimulatedScores],
    metrics: Mapping[str, float],
    temperature: float,
    *,
    written: bool,
) -> list[str]:
    """Words for the report on what the simulated queries tell, and what they cannot. metrics: of
    after. written: whether the LM wrote the queries, and not only z*."""
    if "jeffreys" not in metrics:
        return []
    whose = "queries as the frozen LM writes them, not as the data do" if written else "queries"
    unseen = min(1.0, SEEN_MODE / len(after))
    lines = [
        f"jeffreys, {metrics['jeffreys']:.3g} [{metrics['jeffreys_low']:.3g}, "
        f"{metrics['jeffreys_high']:.3g}], is of {len(after)} {whose}; a lost mode below "
        f"{unseen:.0%} of the posterior cannot be seen"
    ]
    missed = change_of_missed(before, after, temperature)
    if missed is not None:
        lines.append(
            f"KL(p||q) on them changed by {missed.mean:+.3g} [{missed.low:+.3g}, "
            f"{missed.high:+.3g}]; below 0 the policy covers more of the posterior"
        )
    if metrics["simulated_ess"] < LEAST_ESS_FRACTION:
        lines.append(
            f"jeffreys is carried by {metrics['simulated_ess'] * len(after):.1f} of these queries "
            "(simulated_ess): do not trust it; raise eval.simulated_queries"
        )
    if not judge(after, temperature)[1]:
        lines.append(
            "it is measured against the posterior itself, at T = 1: too few draws of it would "
            f"carry an estimate of the policy's own target (reward.temperature_end {temperature:g})"
        )
    return lines


def ranks(judged: Judged) -> Array:
    """Returns the share of a query's samples whose w is below that of z* [N]; ties, such as of the
    same z, count half."""
    away = judged.ratios[:, :1] - judged.ratios[:, 1:]
    shares: Array = np.where(np.abs(away) < TIE_NATS, 0.5, away > 0).mean(axis=1)
    return shares
