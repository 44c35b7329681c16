"""How close samples are to their posterior, without knowing log Z.

With w = log R(z)/T_r - log q(z) of one query's samples, q is the posterior exactly when w is
constant, and then equal to log Z. This module computes diagnostics of w; exact comparisons are in
evaluation/exact.py. No tensors, milliseconds.

Estimates that weigh samples by exp(w) are blind to a mode that q never visits: w of the others may
still be constant. The variance of w sees it under any proposal with full support, so it is also
computed over samples drawn at a higher temperature.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

AVERAGED = (
    "log_ratio_var",
    "tempered_ratio_var",
    "elbo",
    "log_z",
    "log_z_gap",
    "ess_fraction",
)
"""Diagnostics of one query; a run reports their means."""


@dataclass(frozen=True)
class QueryDiagnostics:
    """One query's samples; logarithms in nats. All but tempered_ratio_var are on-policy.

    log_ratio_var: variance of w, 0 at the posterior. tempered_ratio_var: the same over
    samples at a higher temperature. elbo: mean w, a lower bound on log Z.
    log_z: log mean exp(w), the importance-weighted estimate of log Z (Burda et al. 2016).
    log_z_gap: log_z - elbo >= 0, 0 at the posterior. ess: effective sample size
    (sum exp w)^2 / sum exp(w)^2 (Kong 1992), from 1 to samples. ess_fraction: ess / samples.

    Few samples are optimistic: log_z is below log Z on average for any number, so log_z_gap is a
    lower bound on KL(q || p) on average, and ess_fraction cannot fall below 1 / samples.
    evaluation/weights.py tells how far to trust them.
    """

    samples: int
    log_ratio_var: float
    tempered_ratio_var: float
    elbo: float
    log_z: float
    log_z_gap: float
    ess: float
    ess_fraction: float


def log_mean_exp(values: Array) -> float:
    """Returns the log of the mean of exp(values), in nats."""
    top = values.max()
    return float(top + np.log(np.mean(np.exp(values - top))))


def effective_samples(log_ratios: Array) -> float:
    """Returns the effective sample size of weights exp(log_ratios) [S], from 1 to S."""
    weights = np.exp(log_ratios - log_ratios.max())
    return float(np.sum(weights) ** 2 / np.sum(weights**2))


def query_diagnostics(log_ratios: Array, tempered: Array) -> QueryDiagnostics:
    """Computes one query's diagnostics from w [S] on-policy and w [M] tempered, in nats.

    Both use the same q, the policy's at temperature 1.
    """
    w = np.asarray(log_ratios, dtype=np.float64)
    log_ratio_var = _variance(w, "eval.samples")
    elbo, log_z = float(np.mean(w)), log_mean_exp(w)
    ess = effective_samples(w)
    return QueryDiagnostics(
        samples=len(w),
        log_ratio_var=log_ratio_var,
        tempered_ratio_var=_variance(np.asarray(tempered, np.float64), "eval.tempered_samples"),
        elbo=elbo,
        log_z=log_z,
        log_z_gap=log_z - elbo,
        ess=ess,
        ess_fraction=ess / len(w),
    )


def posterior_metrics(each: Sequence[QueryDiagnostics]) -> dict[str, float]:
    """Averages diagnostics over queries; every value is finite."""
    return {name: float(np.mean([getattr(one, name) for one in each])) for name in AVERAGED}


def _variance(log_ratios: Array, setting: str) -> float:
    if len(log_ratios) < 2:
        raise ValueError(
            f"a variance needs two samples per query, got {len(log_ratios)}; raise {setting}"
        )
    return float(np.var(log_ratios, ddof=1))
