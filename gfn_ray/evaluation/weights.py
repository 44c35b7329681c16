"""How far estimates that weigh samples by exp(w) can be trusted, with w = log R(z)/T_r - log q(z).

Fits the shape of the weights' tail for each query, and warns if it is heavy. The estimates of
every held-out query are in evaluation/posterior.py; this module uses a few queries with many
samples each, because only those have a tail. Few samples of many queries cannot replace them:
weights of different queries are comparable only when divided by their mean, after which none of S
exceeds S, which cuts off the very tail in question.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gfn_ray.config.sections import FEWEST_FOR_A_TAIL
from gfn_ray.evaluation.posterior import Array, effective_samples, log_mean_exp

# Above this, no affordable number of samples helps. Source of it, and of the lower limit for fewer
# than 2200 samples: Vehtari et al. 2024, Pareto smoothed importance sampling, JMLR 25(72).
HIGHEST_LIMIT = 0.7
# From here on the weights have no mean (same source), so that log_z and everything derived from it
# are wrong for any number of samples.
NO_MEAN = 1.0

# When to warn, from simulations with log-normal weights (tests/unit/test_weights.py).
# A k fitted to 64 weights is noisy. If w has a standard deviation of 0.5 nats, where the estimates
# are right to a few hundredths, 18 % of queries exceed their limit: a few say nothing. At 3 nats
# 92 % do, so more than half is not chance. Nor should good queries hide a bad one: a k above
# NO_MEAN occurs in 1 of 400 at 0.5 nats, 1 of 3 at 3 nats, 19 of 20 at 10.
MOST_ABOVE_LIMIT = 0.5
MOST_WITHOUT_MEAN = 0.1

# If the largest weights agree to 10 %, none dominates, whatever the shape of their differences.
FLAT_TAIL_NATS = 0.1
# Two samples of the same z differ only by float32 rounding in log q.
TIE_NATS = 1e-4
# exp() of a wider span would underflow in float64, whose limit is 745.
WIDEST_SPAN_NATS = 600.0

WEIGHT_METRICS = (
    "diagnostic_log_z_gap",
    "diagnostic_ess_fraction",
    "pareto_k_above",
    "pareto_k_unfitted",
)
"""Metrics of `weight_metrics`, measured only at the start and end of a run."""


@dataclass(frozen=True)
class WeightDiagnostics:
    """The importance weights of one query's diagnostic samples; logarithms in nats.

    diagnostic_log_z_gap, diagnostic_ess_fraction: as in `QueryDiagnostics`, more accurate because
    of more samples. pareto_k: see `pareto_k`; NaN if it cannot be fitted.
    pareto_k_limit: largest acceptable pareto_k for this number of samples.
    """

    diagnostic_samples: int
    diagnostic_log_z_gap: float
    diagnostic_ess_fraction: float
    pareto_k: float
    pareto_k_limit: float

    @property
    def is_fitted(self) -> bool:
        """Whether a tail could be fitted."""
        return bool(np.isfinite(self.pareto_k))


def weight_diagnostics(log_ratios: Array) -> WeightDiagnostics:
    """Diagnoses one query from w [S] on-policy, in nats. Raises ValueError for too few samples."""
    w = np.asarray(log_ratios, dtype=np.float64)
    return WeightDiagnostics(
        diagnostic_samples=len(w),
        diagnostic_log_z_gap=log_mean_exp(w) - float(np.mean(w)),
        diagnostic_ess_fraction=effective_samples(w) / len(w),
        pareto_k=pareto_k(w),
        pareto_k_limit=pareto_k_limit(len(w)),
    )


def weight_metrics(each: Sequence[WeightDiagnostics]) -> dict[str, float]:
    """Returns WEIGHT_METRICS over the diagnostic queries, all finite; empty without queries.

    pareto_k_above: share of queries whose k exceeds its limit. pareto_k_unfitted: share of queries
    without a k, which are neither above nor below.
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
    """Returns the largest k at which so many weights give a reliable mean (Vehtari et al. 2024)."""
    return float(min(HIGHEST_LIMIT, 1 - 1 / np.log10(samples)))


def pareto_k(log_weights: Array) -> float:
    """Fits a generalized Pareto distribution to the largest of exp(log_weights) [S]; returns its k.

    All weights belong to one query. Their moments exist below order 1/k: from k = 0.5 their
    variance, and from k = 1 their mean, is infinite (Vehtari et al. 2024). A short tail biases k
    towards 0.5: raises ValueError below FEWEST_FOR_A_TAIL weights.

    Returns 0.0 for a flat tail, such as the posterior's constant weights: every moment exists,
    and k = 0 is the largest value with that property. The limit, minus infinity, could neither be
    averaged nor written as JSON.

    Returns NaN if a quarter of the tail ties with its threshold: then few different z were drawn,
    and there is no tail to fit.
    """
    size = len(log_weights)
    if size < FEWEST_FOR_A_TAIL:
        raise ValueError(
            f"a tail needs {FEWEST_FOR_A_TAIL} samples per query, got {size}; raise "
            "eval.diagnostic_samples"
        )
    w = np.sort(np.asarray(log_weights, dtype=np.float64))
    in_tail = int(min(size / 5, 3 * size**0.5))
    threshold, tail = w[-in_tail - 1], w[-in_tail:]
    if tail[-1] - tail[0] < FLAT_TAIL_NATS:
        return 0.0
    # The fit takes its scale from the first quartile of the excesses over the threshold.
    if tail[int(in_tail / 4 + 0.5) - 1] - threshold < TIE_NATS:
        return float("nan")
    # Imported here, because tasks import this module and SciPy's statistics take two seconds.
    from arviz_stats.base import array_stats

    # If x has a Pareto tail of shape k, x^c has one of shape c k.
    stretch = max(1.0, (tail[-1] - threshold) / WIDEST_SPAN_NATS)
    # Weights, not their logarithms: arviz-stats 0.8.0 with log_weights=True fits the logarithms
    # themselves. chain_axis: one chain. r_eff: samples are independent.
    weights = np.exp((w - w[-1]) / stretch)
    k = array_stats.pareto_khat(weights, chain_axis=None, r_eff=1.0, tail="right")
    return float(stretch * k)


def warnings(each: Sequence[WeightDiagnostics]) -> list[str]:
    """Returns warnings about estimates of a policy from importance weights."""
    if not each:
        return [
            "eval.diagnostic_queries is 0: whether log_z, log_z_gap and ess_fraction can be "
            "trusted is unknown"
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
            f"Pareto k-hat cannot be fitted in {unfitted} of {len(each)} diagnostic queries, which "
            f"have few different z: whether their log_z_gap and ess_fraction can be trusted is "
            f"unknown"
        )
    return found


def _is_alarming(each: Sequence[WeightDiagnostics]) -> bool:
    above = np.mean([one.pareto_k > one.pareto_k_limit for one in each])
    without_mean = np.mean([one.pareto_k > NO_MEAN for one in each])
    return bool(above > MOST_ABOVE_LIMIT or without_mean > MOST_WITHOUT_MEAN)
