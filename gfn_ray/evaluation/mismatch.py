"""Compares the sampling engine's log q with the learner's, on samples from the engine.

Two numbers tell whether both have the same weights; runtime/training/engine_check.py acts on them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

# With fewer, the residuals of a fitted line say little about their scatter.
FEWEST_TOKENS = 8

Array = npt.NDArray[np.float64]


def mismatch_kl(engine: Array, learner: Array) -> float:
    """Estimates KL(engine || learner) in nats per sample by k3, the mean of exp(d) - 1 - d with
    d = learner - engine: no term is negative, so opposite errors do not cancel.

    engine, learner [N]: log q of the engine's samples; those where one is NaN are left out.
    Source: Schulman, Approximating KL divergence, 2020.
    """
    d = (learner - engine)[~np.isnan(learner - engine)]
    return float(np.mean(np.expm1(d) - d))


@dataclass(frozen=True)
class Share:
    """Share of a change of weights that the engine shows: 1 all of it, 0 none. error: its standard
    error."""

    value: float
    error: float


def share_of_change(engine: Array, new: Array, old: Array, least: float) -> Share | None:
    """Returns the least-squares slope of (engine - old) against (new - old) over tokens.

    Over tokens, not whole samples: there are a dozen times as many, each with less rounding.

    It has no unit: the smaller the change and the less precise the engine, the larger its error,
    and a shift common to all does not count. Above 1/2 the engine is closer to `new`. engine, new,
    old [N]: log q of the same tokens by the engine, and by the learner with either weights. least:
    standard deviation of the change, in nats, below which it may be rounding; returns None then, or
    if there are too few tokens.
    """
    if len(engine) < FEWEST_TOKENS:
        return None
    change, seen = new - old, engine - old
    change, seen = change - change.mean(), seen - seen.mean()
    if change.std() < least:
        return None
    square = change @ change
    value = seen @ change / square
    rest = seen - value * change
    error = np.sqrt(rest @ rest / (len(engine) - 2) / square)
    return Share(float(value), float(error))
