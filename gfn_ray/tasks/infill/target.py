"""Terms of the infilling target besides the frozen LM's, against copying and drift in length.

A frozen LM rewards repeated sentences and short ones. These terms can be added to log R at every
prefix that may stop.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gfn_ray.evaluation.text_metrics.text import is_copy
from gfn_ray.rewards.adjusted import Array
from gfn_ray.trajectory import Query, Trajectory


@dataclass(frozen=True)
class CopyPenalty:
    """Returns -nats for a text that nearly repeats a given sentence, as in `copy_fraction`."""

    nats: float

    def __call__(self, query: Query, text: str) -> float:
        return -self.nats if is_copy(text, query.texts["given"].split("\n")) else 0.0


@dataclass(frozen=True)
class LengthPrior:
    """Log of a normal density at each prefix's number of tokens [T+1]."""

    mean: float
    std: float

    @staticmethod
    def of(lengths: Sequence[int]) -> LengthPrior:
        """Fits the density to lengths, at least two of which differ."""
        return LengthPrior(float(np.mean(lengths)), float(np.std(lengths, ddof=1)))

    def __call__(self, query: Query, trajectory: Trajectory) -> Array:
        away = (np.arange(len(trajectory) + 1, dtype=np.float64) - self.mean) / self.std
        log_density: Array = -0.5 * away**2 - math.log(self.std * math.sqrt(2 * math.pi))
        return log_density
