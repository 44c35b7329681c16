"""Target distributions over the integers low..high, and checks of their settings.

Computed in log space, so that no integer of the range underflows to probability 0.
Source of the task: Hu et al. 2024, the section on random numbers, with the uniform target.

Each distribution is truncated to the range and renormalised. `mean` and `std` are those
before truncation: a geometric target with its mean near `high` has a smaller mean afterwards.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from gfn_ray.errors import UserError
from gfn_ray.tasks.random_number.config import TargetKind

Array = npt.NDArray[np.float64]

# With it the integer at the mean has all but 1e-21 of the mass: nothing else is ever sampled.
SMALLEST_STD = 0.1
MODES = 5


def log_target(
    kind: TargetKind,
    low: int,
    high: int,
    *,
    mean: float | None = None,
    std: float | None = None,
) -> Array:
    """Returns normalised log-probabilities [high - low + 1] of low..high, all finite.

    With k = integer - low, n = high - low and m = mean - low:
    uniform    p(k) = 1 / (n + 1); takes neither mean nor std.
    binomial   n trials with success probability m / n; mean: the middle of the range.
    geometric  p(k) ~ (m / (1 + m))^k, failures before a success; mean: low + n / 5.
    poisson    p(k) ~ m^k / k!; mean: the middle of the range.
    gaussian   p(k) ~ exp(-(k - m)^2 / (2 std^2)), the density at the integers, normalised.
               Unlike the mass on [k - 1/2, k + 1/2] it needs no difference of two cdfs,
               which is 0 far in a tail. mean: the middle of the range; std: n / 6.
    modes      the mean of MODES such densities, evenly apart; takes no mean; std: n / 50.
    Raises UserError for a setting that is out of range, or that the target does not use.
    """
    mean, std = _settled(kind, low, high, mean, std)
    k = np.arange(high - low + 1, dtype=np.float64)
    if kind == "uniform":
        return _normalised(np.zeros_like(k))
    if kind == "modes":
        centres = (np.arange(MODES) + 0.5) * len(k) / MODES - 0.5
        each = -0.5 * ((k[:, None] - centres) / std) ** 2
        return _normalised(np.logaddexp.reduce(each, axis=1))
    m = mean - low
    if kind == "binomial":
        # log p - log(1 - p) for p = m / n, without the rounding of 1 - p.
        return _normalised(
            k * (math.log(m) - math.log(high - mean)) - _log_factorial(k) - _log_factorial(k)[::-1]
        )
    if kind == "geometric":
        return _normalised(k * (math.log(m) - math.log1p(m)))
    if kind == "poisson":
        return _normalised(k * math.log(m) - _log_factorial(k))
    return _normalised(-0.5 * ((k - m) / std) ** 2)


def _settled(
    kind: TargetKind, low: int, high: int, mean: float | None, std: float | None
) -> tuple[float, float]:
    """Fills in the defaults of mean and std; raises UserError for invalid ones."""
    if not low < high:
        raise UserError(
            f"a range needs two integers, but task.low is {low} and task.high is {high}; "
            "lower the first or raise the second"
        )
    if mean is not None and kind in ("uniform", "modes"):
        raise UserError(
            f"task.mean ({mean}) does not apply to task.target {kind!r}; leave it out or choose "
            "another task.target"
        )
    if std is not None and kind not in ("gaussian", "modes"):
        raise UserError(
            f"task.std ({std}) does not apply to task.target {kind!r}; leave it out or choose "
            "task.target 'gaussian' or 'modes'"
        )
    if mean is None:
        mean = low + (high - low) / (5 if kind == "geometric" else 2)
    # Both comparisons also refuse NaN.
    if not low < mean < high:
        raise UserError(
            f"task.mean must lie strictly between task.low ({low}) and task.high ({high}), "
            f"got {mean}"
        )
    if std is None:
        std = max((high - low) / (50 if kind == "modes" else 6), SMALLEST_STD)
    if not SMALLEST_STD <= std < math.inf:
        raise UserError(f"task.std must be finite and at least {SMALLEST_STD}, got {std}")
    return mean, std


def _log_factorial(k: Array) -> Array:
    """Returns log k! of each element [N]."""
    return np.array([math.lgamma(x + 1) for x in k])


def _normalised(log_weights: Array) -> Array:
    """Returns log_weights - log sum exp(log_weights) [N]."""
    shifted = log_weights - log_weights.max()
    result: Array = shifted - np.log(np.exp(shifted).sum())
    return result
