"""log R of another reward plus terms, finite and in nats, at every prefix that may stop."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from gfn_ray.rewards.reward import Pair, Reward
from gfn_ray.trajectory import Query, Trajectory

Array = npt.NDArray[np.float64]


class Term(Protocol):
    """A term added to log R, in nats.

    It may make a z unlikely but never impossible: with log R = -inf, z would not be a node of the
    loss, and its probability would not be pushed down.
    """

    def __call__(self, query: Query, trajectory: Trajectory) -> Array:
        """Returns one value per prefix [T+1], finite wherever the prefix is terminable."""
        ...


class AdjustedReward:
    """Another reward, `adjusted`, plus terms, prefix by prefix."""

    def __init__(self, reward: Reward, terms: Sequence[Term]) -> None:
        self.adjusted = reward
        self._terms = list(terms)

    def load(self, load_model: Callable[[], Any]) -> None:
        """Loads the adjusted reward."""
        self.adjusted.load(load_model)

    def score(self, pairs: Sequence[Pair]) -> list[Trajectory]:
        """Returns the trajectories in order, with log R [T+1] in nats."""
        adjusted = []
        for (query, _), trajectory in zip(pairs, self.adjusted.score(pairs), strict=True):
            if trajectory.log_reward is None:
                raise ValueError(f"a trajectory of query {query.query_id!r} came back unscored")
            log_reward = trajectory.log_reward.astype(np.float64)
            for term in self._terms:
                log_reward = log_reward + term(query, trajectory)
            adjusted.append(trajectory.scored(log_reward))
        return adjusted
