"""log R from a table of the texts that count, and a floor for all others. Needs no model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from gfn_ray.rewards.reward import Pair
from gfn_ray.trajectory import IntArray, Trajectory


class TableReward:
    """log R(z) of listed z, by their exact tokens; every other z gets the floor.

    The floor is finite, so that a z outside the table is a node of the loss and its probability
    is pushed down: a dead end without a node would leak. Stateless.
    """

    def __init__(self, log_reward: Mapping[bytes, float], floor: float) -> None:
        """log_reward: keyed by `table_key` of z; above the floor, which is finite, in nats."""
        if not np.isfinite(floor) or any(value < floor for value in log_reward.values()):
            raise ValueError(f"the floor {floor} must be finite and below every listed log R")
        self._log_reward = dict(log_reward)
        self._floor = floor

    def load(self, load_model: Callable[[], Any]) -> None:
        """Nothing to load."""

    def score(self, pairs: Sequence[Pair]) -> list[Trajectory]:
        """The trajectories in order, with log R [T+1] in nats attached."""
        return [
            trajectory.scored(
                [
                    self._log_reward.get(table_key(trajectory.token_ids[:t]), self._floor)
                    for t in range(len(trajectory) + 1)
                ]
            )
            for _, trajectory in pairs
        ]


def table_key(token_ids: IntArray) -> bytes:
    """A z as a key of the table."""
    return np.asarray(token_ids, dtype=np.int32).tobytes()
