"""Choosing among samples of q by log R and log q: the best of several, or draws by R / q.

R / q makes samples of q into samples of the posterior, the better the more there are
(sampling-importance-resampling; Rubin 1987). log R and log q come from elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Weights:
    """normalised [M]: shares of the candidates, which sum to 1."""

    normalised: Array

    @staticmethod
    def of(log_weights: npt.ArrayLike) -> Weights:
        """log_weights [M]: log R/T - log q of each candidate, in nats, finite."""
        logs = np.asarray(log_weights, dtype=np.float64)
        shares = np.exp(logs - logs.max())
        return Weights(shares / shares.sum())

    @property
    def effective(self) -> float:
        """Effective sample size, (sum w)^2 / sum w^2: how many candidates of equal weight are worth
        as much. Between 1 and M."""
        return float(1.0 / np.square(self.normalised).sum())

    def draw(self, n: int, rng: np.random.Generator) -> list[int]:
        """Places of n candidates, in random order: candidate i comes n w_i times on average, and
        within one of that (systematic resampling; Carpenter et al. 1999)."""
        steps = (np.arange(n) + rng.random()) / n
        ends = np.cumsum(self.normalised)
        places = np.searchsorted(ends / ends[-1], steps, side="right")
        drawn: list[int] = rng.permutation(places).tolist()
        return drawn


def best_of(log_rewards: npt.ArrayLike, candidates: int) -> list[int]:
    """Places of the best of every `candidates` one after another; of equals the first."""
    rows = np.asarray(log_rewards, dtype=np.float64).reshape(-1, candidates)
    best: list[int] = (np.arange(len(rows)) * candidates + rows.argmax(axis=1)).tolist()
    return best
