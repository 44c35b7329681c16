"""Confidence intervals of proportions."""

from __future__ import annotations

import math

Z_95 = 1.959964


def wilson_interval(successes: float, trials: int) -> tuple[float, float]:
    """Returns the 95 % score interval of a proportion (Wilson 1927); (0, 1) without trials.

    successes: may be fractional if ties count half.
    """
    if trials == 0:
        return 0.0, 1.0
    share, square = successes / trials, Z_95**2
    centre = (share + square / (2 * trials)) / (1 + square / trials)
    spread = share * (1 - share) / trials + square / (4 * trials**2)
    half = Z_95 * math.sqrt(spread) / (1 + square / trials)
    # Clamped to contain the share, which rounding could prevent if none or all succeed.
    return max(0.0, min(share, centre - half)), min(1.0, max(share, centre + half))
