"""The sampling engine's log q beside the learner's, on samples that the engine made by q.

Owns the two numbers that say whether both have the same weights. What follows from them is
runtime/training/engine_check.py's.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

# With fewer samples, what is left beside a fitted line says little of their scatter.
FEWEST_SAMPLES = 8

Array = npt.NDArray[np.float64]


def mismatch_kl(engine: Array, learner: Array) -> float:
    """KL(engine || learner) in nats a sample, estimated by k3, the mean of exp(d) - 1 - d with
    d = learner - engine: no term is negative, so opposite errors do not cancel.

    engine, learner [N]: log q of the engine's samples; those where one is NaN are left out.
    Source: Schulman, Approximating KL divergence, 2020.
    """
    d = (learner - engine)[~np.isnan(learner - engine)]
    return float(np.mean(np.expm1(d) - d))


@dataclass(frozen=True)
class Share:
    """How much of a change of weights the engine shows: 1 all of it, 0 none. error: the standard
    error of that."""

    value: float
    error: float


def share_of_change(engine: Array, new: Array, old: Array, least: float) -> Share | None:
    """The slope of (engine - old) against (new - old) over samples, by least squares.

    It has no unit: the smaller the change and the rougher the engine, the larger its error, and
    what shifts all samples alike does not count. The engine is nearer to `new` above 1/2.

    engine, new, old [N]: log q of the same samples by the engine, and by the learner with either
    weights. least: standard deviation of the change, in nats, below which it may be rounding;
    None there, or where there are too few samples.
    """
    if len(engine) < FEWEST_SAMPLES:
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
