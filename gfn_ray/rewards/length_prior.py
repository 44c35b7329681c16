"""A prior on the length of z, as a term of log R: a frozen LM rewards a short text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from gfn_ray.rewards.adjusted import Array
from gfn_ray.trajectory import Query, Trajectory


@dataclass(frozen=True)
class LengthPrior:
    """log of a normal density at the number of tokens of each prefix."""

    mean: float
    std: float

    @staticmethod
    def of(lengths: Sequence[int]) -> LengthPrior:
        """The normal density of these lengths, two or more of which differ."""
        return LengthPrior(float(np.mean(lengths)), float(np.std(lengths, ddof=1)))

    def log_density(self, lengths: npt.ArrayLike) -> Array:
        """log of the density at these numbers of tokens."""
        away = (np.asarray(lengths, dtype=np.float64) - self.mean) / self.std
        log_density: Array = -0.5 * away**2 - math.log(self.std * math.sqrt(2 * math.pi))
        return log_density

    def __call__(self, query: Query, trajectory: Trajectory) -> Array:
        return self.log_density(np.arange(len(trajectory) + 1))
