"""The interface of a reward."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from gfn_ray.trajectory import Query, Trajectory

Pair = tuple[Query, Trajectory]

REWARD = "reward"
"""Name of a part of log R: what reward functions gave."""
LOG_P_REF = "log_p_ref"
"""Name of another: log p(z | x) of the whole z under the frozen LM, in nats."""


class Reward(Protocol):
    """log R of every terminable prefix: the unnormalised log-posterior of the task.

    The task makes it without a model; it is sent to the reward actors and loaded there.
    """

    def load(self, load_model: Callable[[], Any]) -> None:
        """Called once before the first score; `load_model` returns the frozen LM, if needed."""
        ...

    def score(self, pairs: Sequence[Pair]) -> list[Trajectory]:
        """Returns the trajectories in order, with untempered log R [T+1] in nats."""
        ...


@runtime_checkable
class ExplainsFaults(Protocol):
    """A reward that knows why it gave some trajectory no log R."""

    @property
    def faults(self) -> Mapping[int, str]:
        """Of the latest `score`, by a trajectory's place."""
        ...


@runtime_checkable
class HasParts(Protocol):
    """A reward whose log R is made of parts that a task's metrics read."""

    @property
    def parts(self) -> Mapping[str, npt.NDArray[np.float64]]:
        """Of the latest `score`, by name: one number a trajectory."""
        ...
