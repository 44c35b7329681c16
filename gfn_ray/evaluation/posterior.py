"""How close samples are to the posterior they should come from, without knowing log Z.

With w = log R(z)/T_r - log q(z) of one query's samples, q is the posterior exactly when w is
constant, and equal to log Z. Owns what can be read off w and how far to trust it; sampling,
scoring and exact comparisons (evaluation/exact.py) are elsewhere. No tensors, milliseconds.

Whatever weighs samples by exp(w) is blind to a mode that q never visits: w of the others is then
constant too. The variance of w sees it under any proposal with full support, so it is also taken
over samples drawn at a higher temperature.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

# Above it, importance-weighted estimates converge too slowly to be believed at any number of
# samples that we can afford. Source: Vehtari et al. 2024, Pareto smoothed importance sampling,
# JMLR 25(72). Below 2200 samples they ask for less still: min(1 - 1 / log10 S, 0.7).
PARETO_K_ALARM = 0.7

# A tail is the largest min(S / 5, 3 sqrt S) weights (same source), and a fit needs five.
PARETO_K_MIN_SAMPLES = 25

# Largest weights that agree to 1% dominate nothing, whatever shape their differences have.
FLAT_TAIL_NATS = 0.01
# Two samples of one z differ by float32 rounding in log q, not by more.
TIE_NATS = 1e-4
AVERAGED = (
    "log_ratio_var",
    "tempered_ratio_var",
    "elbo",
    "log_z",
    "log_z_gap",
    "ess_fraction",
)
"""Diagnostics whose mean over queries says something."""

# exp() of a wider span would underflow in float64, whose limit is 745.
WIDEST_SPAN_NATS = 600.0


@dataclass(frozen=True)
class QueryDiagnostics:
    """One query's samples; logarithms in nats. All but tempered_ratio_var are on-policy.

    log_ratio_var: variance of w, 0 at the posterior. tempered_ratio_var: the same over
    samples at a higher temperature. elbo: mean w, a lower bound of log Z.
    log_z: log mean exp(w), the importance-weighted estimate of log Z (Burda et al. 2016).
    log_z_gap: log_z - elbo >= 0, 0 at the posterior. ess: effective sample size
    (sum exp w)^2 / sum exp(w)^2 (Kong 1992), from 1 to samples. ess_fraction: ess / samples.
    pareto_k: tail shape of exp(w), see `pareto_k`; NaN where it cannot be fitted.
    """

    samples: int
    log_ratio_var: float
    tempered_ratio_var: float
    elbo: float
    log_z: float
    log_z_gap: float
    ess: float
    ess_fraction: float
    pareto_k: float


def log_mean_exp(values: Array) -> float:
    """log of the mean of exp(values), in nats."""
    top = values.max()
    return float(top + np.log(np.mean(np.exp(values - top))))


def query_diagnostics(log_ratios: Array, tempered: Array) -> QueryDiagnostics:
    """Diagnostics of one query from w [S] on-policy and w [M] at a higher temperature, in nats.

    Both w have the same q, the policy's at temperature 1.
    """
    w = np.asarray(log_ratios, dtype=np.float64)
    log_ratio_var = _variance(w, "eval.samples")
    elbo, log_z = float(np.mean(w)), log_mean_exp(w)
    weights = np.exp(w - w.max())
    ess = float(np.sum(weights) ** 2 / np.sum(weights**2))
    return QueryDiagnostics(
        samples=len(w),
        log_ratio_var=log_ratio_var,
        tempered_ratio_var=_variance(np.asarray(tempered, np.float64), "eval.tempered_samples"),
        elbo=elbo,
        log_z=log_z,
        log_z_gap=log_z - elbo,
        ess=ess,
        ess_fraction=ess / len(w),
        pareto_k=pareto_k(w),
    )


def posterior_metrics(
    each: Sequence[QueryDiagnostics], log_ratios: Sequence[Array]
) -> dict[str, float]:
    """Averages over queries of their diagnostics; every value is finite.

    log_ratios: w [S] of each query on-policy, in nats. pareto_k is no average: it is one fit to
    the weights of all queries, each divided by its query's own mean, because one query alone
    seldom has enough samples for a tail. It is absent where it cannot be fitted.
    """
    metrics = {name: float(np.mean([getattr(one, name) for one in each])) for name in AVERAGED}
    pooled = pareto_k(
        np.concatenate([w - one.log_z for w, one in zip(log_ratios, each, strict=True)])
    )
    if np.isfinite(pooled):
        metrics["pareto_k"] = pooled
    return metrics


def pareto_k(log_weights: Array) -> float:
    """Shape k of a generalized Pareto distribution fitted to the largest of exp(log_weights) [S].

    Moments of the weights exist below order 1/k: from k = 0.5 their variance, and from k = 1
    their mean, is infinite (Vehtari et al. 2024). Biased towards 0.5 where the tail is short.

    0.0 for a flat tail, constant weights above all: those are the posterior's, every moment
    exists, and k = 0 is the largest value of which that is true. Minus infinity, the limit,
    could be neither averaged nor written as JSON.
    NaN for fewer than PARETO_K_MIN_SAMPLES weights, and where a quarter of the tail ties with its
    threshold: then few different z were drawn, and there is no tail to fit.
    """
    size = len(log_weights)
    if size < PARETO_K_MIN_SAMPLES:
        return float("nan")
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


def warning(metrics: Mapping[str, float]) -> str | None:
    """What a person must know before believing these `posterior_metrics`, if anything."""
    k = metrics.get("pareto_k")
    if k is None or k <= PARETO_K_ALARM:
        return None
    return (
        f"log_z, log_z_gap and ess_fraction cannot be trusted: the importance weights are "
        f"heavy-tailed (Pareto k-hat {k:.2f}, limit {PARETO_K_ALARM}), so a few samples carry the "
        f"estimate and the true gap is probably larger than log_z_gap; look at "
        f"tempered_ratio_var instead, and train longer or raise eval.samples"
    )


def _variance(log_ratios: Array, setting: str) -> float:
    if len(log_ratios) < 2:
        raise ValueError(
            f"a variance needs two samples of a query, got {len(log_ratios)}; raise {setting}"
        )
    return float(np.var(log_ratios, ddof=1))
