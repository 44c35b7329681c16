"""The interface of a reward."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from gfn_ray.trajectory import Query, Trajectory

Pair = tuple[Query, Trajectory]


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
