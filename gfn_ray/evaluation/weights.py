"""How far estimates that weigh samples by exp(w) can be trusted, with w = log R(z)/T_r - log q(z).

Owns the shape of the weights' tail, query by query, and the alarm over it. The estimates of every
held-out query are in evaluation/posterior.py; here are a few queries with many samples each, since
only those have a tail. Few samples of many queries cannot stand in for them: the weights of a query
are comparable to another's only when divided by their mean, after which none of S exceeds S, and
the very tail that is looked for is cut off.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gfn_ray.config.sections import FEWEST_FOR_A_TAIL
from gfn_ray.evaluation.posterior import Array, effective_samples, log_mean_exp

# No number of samples that we can afford helps above this. Source of it, and of the lower limit for
# fewer than 2200 samples: Vehtari et al. 2024, Pareto smoothed importance sampling, JMLR 25(72).
HIGHEST_LIMIT = 0.7
# The weights have no mean from here on (same source), so that log_z and all that follows from it is
# wrong at any number of samples.
NO_MEAN = 1.0

# When to raise the alarm, by simulation with log-normal weights (tests/unit/test_weights.py).
# A k fitted to 64 weights is noisy. Where w deviates by 0.5 nats, and the estimates are right to a
# few hundredths, 18 % of queries are above their limit: a few of them say nothing. At 3 nats 92 %
# are, so more than half is not chance. Nor should good queries hide a bad one: a k above NO_MEAN
# has 1 of 400 at 0.5 nats, 1 of 3 at 3 nats, 19 of 20 at 10.
MOST_ABOVE_LIMIT = 0.5
MOST_WITHOUT_MEAN = 0.1

# Largest weights that agree to 10 % dominate nothing, whatever shape their differences have.
FLAT_TAIL_NATS = 0.1
# Two samples of one z differ by float32 rounding in log q, not by more.
TIE_NATS = 1e-4
# exp() of a wider span would underflow in float64, whose limit is 745.
WIDEST_SPAN_NATS = 600.0

WEIGHT_METRICS = (
    "diagnostic_log_z_gap",
    "diagnostic_ess_fraction",
    "pareto_k_above",
    "pareto_k_unfitted",
)
"""What `weight_metrics` measures, at both ends of a run only."""


@dataclass(frozen=True)
class WeightDiagnostics:
    """The importance weights of one query's diagnostic samples; logarithms in nats.

    diagnostic_log_z_gap, diagnostic_ess_fraction: as in `QueryDiagnostics`, and nearer the truth
    for being of more samples. pareto_k: see `pareto_k`; NaN where it cannot be fitted.
    pareto_k_limit: what pareto_k must not exceed at this number of samples.
    """

    diagnostic_samples: int
    diagnostic_log_z_gap: float
    diagnostic_ess_fraction: float
    pareto_k: float
    pareto_k_limit: float

    @property
    def is_fitted(self) -> bool:
        """Whether the weights have a tail of a shape."""
        return bool(np.isfinite(self.pareto_k))


def weight_diagnostics(log_ratios: Array) -> WeightDiagnostics:
    """The diagnosis of one query from w [S] on-policy, in nats. ValueError for too few samples."""
    w = np.asarray(log_ratios, dtype=np.float64)
    return WeightDiagnostics(
        diagnostic_samples=len(w),
        diagnostic_log_z_gap=log_mean_exp(w) - float(np.mean(w)),
        diagnostic_ess_fraction=effective_samples(w) / len(w),
        pareto_k=pareto_k(w),
        pareto_k_limit=pareto_k_limit(len(w)),
    )


def weight_metrics(each: Sequence[WeightDiagnostics]) -> dict[str, float]:
    """WEIGHT_METRICS over the diagnostic queries, all of them finite; nothing where there are none.

    pareto_k_above: share of queries whose k exceeds its limit. pareto_k_unfitted: share of those of
    which there is no k, so that they are neither above nor below.
    """
    if not each:
        return {}
    return {
        "diagnostic_log_z_gap": float(np.mean([one.diagnostic_log_z_gap for one in each])),
        "diagnostic_ess_fraction": float(np.mean([one.diagnostic_ess_fraction for one in each])),
        "pareto_k_above": float(np.mean([one.pareto_k > one.pareto_k_limit for one in each])),
        "pareto_k_unfitted": float(np.mean([not one.is_fitted for one in each])),
    }


def pareto_k_limit(samples: int) -> float:
    """The largest k at which so many weights still give a dependable mean (Vehtari et al. 2024)."""
    return float(min(HIGHEST_LIMIT, 1 - 1 / np.log10(samples)))


def pareto_k(log_weights: Array) -> float:
    """Shape k of a generalized Pareto distribution fitted to the largest of exp(log_weights) [S].

    All weights are one query's. Moments of them exist below order 1/k: from k = 0.5 their
    variance, and from k = 1 their mean, is infinite (Vehtari et al. 2024). Biased towards 0.5 where
    the tail is short: ValueError below FEWEST_FOR_A_TAIL weights.

    0.0 for a flat tail, constant weights above all: those are the posterior's, every moment
    exists, and k = 0 is the largest value of which that is true. Minus infinity, the limit,
    could be neither averaged nor written as JSON.
    NaN where a quarter of the tail ties with its threshold: then few different z were drawn, and
    there is no tail to fit.
    """
    size = len(log_weights)
    if size < FEWEST_FOR_A_TAIL:
        raise ValueError(
            f"a tail needs {FEWEST_FOR_A_TAIL} samples of a query, got {size}; raise "
            "eval.diagnostic_samples"
        )
    w = np.sort(np.asarray(log_weights, dtype=np.float64))
    in_tail = int(min(size / 5, 3 * size**0.5))
    threshold, tail = w[-in_tail - 1], w[-in_tail:]
    if tail[-1] - tail[0] < FLAT_TAIL_NATS:
        return 0.0
    # The fit takes its scale from the first quartile of what exceeds the threshold.
    if tail[int(in_tail / 4 + 0.5) - 1] - threshold < TIE_NATS:
        return float("nan")
    # Here, because tasks import this module and SciPy's statistics take two seconds to load.
    from arviz_stats.base import array_stats

    # If x has a Pareto tail of shape k, x^c has one of shape c k.
    stretch = max(1.0, (tail[-1] - threshold) / WIDEST_SPAN_NATS)
    # Weights, not their logarithms: arviz-stats 0.8.0 takes log_weights=True and fits those as
    # they are. chain_axis: one chain. r_eff: samples are independent.
    weights = np.exp((w - w[-1]) / stretch)
    k = array_stats.pareto_khat(weights, chain_axis=None, r_eff=1.0, tail="right")
    return float(stretch * k)


def warnings(each: Sequence[WeightDiagnostics]) -> list[str]:
    """What a person must know before believing what importance weights say of a policy."""
    if not each:
        return [
            "eval.diagnostic_queries is 0: nothing tells whether log_z, log_z_gap and ess_fraction "
            "can be trusted"
        ]
    found = []
    if _is_alarming(each):
        above = sum(one.pareto_k > one.pareto_k_limit for one in each)
        worst = max(one.pareto_k for one in each if one.is_fitted)
        found.append(
            f"log_z, log_z_gap and ess_fraction cannot be trusted, nor can diagnostic_*: the "
            f"importance weights are heavy-tailed (Pareto k-hat is above its limit, "
            f"{each[0].pareto_k_limit:.2f}, in {above} of {len(each)} diagnostic queries; the "
            f"largest is {worst:.2f}), so a few samples carry the estimate and the true gap is "
            f"probably larger; look at tempered_ratio_var instead, and train longer or raise "
            f"eval.diagnostic_samples"
        )
    if unfitted := sum(not one.is_fitted for one in each):
        found.append(
            f"Pareto k-hat cannot be fitted in {unfitted} of {len(each)} diagnostic queries, of "
            f"which few different z were drawn: nothing tells whether their log_z_gap and "
            f"ess_fraction can be trusted"
        )
    return found


def _is_alarming(each: Sequence[WeightDiagnostics]) -> bool:
    above = np.mean([one.pareto_k > one.pareto_k_limit for one in each])
    without_mean = np.mean([one.pareto_k > NO_MEAN for one in each])
    return bool(above > MOST_ABOVE_LIMIT or without_mean > MOST_WITHOUT_MEAN)
