"""How sure a share of successes is."""

from __future__ import annotations

import math

Z_95 = 1.959964


def wilson_interval(successes: float, trials: int) -> tuple[float, float]:
    """The 95 % score interval of a proportion (Wilson 1927); (0, 1) without trials.

    successes: may be fractional, where ties count by halves.
    """
    if trials == 0:
        return 0.0, 1.0
    share, square = successes / trials, Z_95**2
    centre = (share + square / (2 * trials)) / (1 + square / trials)
    spread = share * (1 - share) / trials + square / (4 * trials**2)
    half = Z_95 * math.sqrt(spread) / (1 + square / trials)
    # Both hold the share, which rounding would not grant where none or all succeed.
    return max(0.0, min(share, centre - half)), min(1.0, max(share, centre + half))
