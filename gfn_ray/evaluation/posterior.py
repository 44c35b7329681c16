"""How close samples are to the posterior they should come from, without knowing log Z.

Pure numpy. With w_i = log R(z_i)/T_r - log q(z_i) over on-policy samples of one query,
q is the posterior exactly when w is constant, and equal to log Z.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


def log_mean_exp(values: Array) -> float:
    """log of the mean of exp(values), in nats."""
    top = values.max()
    return float(top + np.log(np.mean(np.exp(values - top))))


def posterior_metrics(log_ratios: Sequence[Array]) -> dict[str, float]:
    """Diagnostics from w [S] of each query, averaged over queries.

    log_ratio_var: variance of w within a query. elbo: mean w. log_z_gap: the
    importance-weighted estimate of log Z minus the ELBO, >= 0 and 0 at the posterior.
    """
    for ratios in log_ratios:
        if len(ratios) < 2:
            raise ValueError("a variance needs two samples of a query; raise eval.samples")
    return {
        "log_ratio_var": float(np.mean([np.var(ratios, ddof=1) for ratios in log_ratios])),
        "elbo": float(np.mean([np.mean(ratios) for ratios in log_ratios])),
        "log_z_gap": float(np.mean([log_mean_exp(w) - np.mean(w) for w in log_ratios])),
    }
