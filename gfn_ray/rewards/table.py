"""log R from a table of texts, and a floor for all others."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from gfn_ray.rewards.reward import Pair, Reward
from gfn_ray.trajectory import IntArray, Trajectory


class TableReward:
    """log R(z) of listed z, by their exact tokens; every other z gets a floor.

    The floor is finite, so that a z outside the table is a node of the loss and its probability is
    pushed down: a dead end without a node would leak probability. It is a constant, optionally
    plus another reward, `prior`, clipped at 0. With log p(z) under the frozen LM as prior, all
    other z together weigh at most exp(floor) for each length, however large the vocabulary.
    """

    def __init__(
        self, log_reward: Mapping[bytes, float], floor: float, prior: Reward | None = None
    ) -> None:
        """log_reward: in nats by `table_key` of z, none below the floor, which must be finite."""
        if not np.isfinite(floor) or any(value < floor for value in log_reward.values()):
            raise ValueError(f"the floor {floor} must be finite and not above any listed log R")
        self._log_reward = dict(log_reward)
        self._floor = floor
        self._prior = prior

    def load(self, load_model: Callable[[], Any]) -> None:
        """Loads the prior, if there is one."""
        if self._prior is not None:
            self._prior.load(load_model)

    def score(self, pairs: Sequence[Pair]) -> list[Trajectory]:
        """Returns the trajectories in order, with log R [T+1] in nats."""
        priors = None if self._prior is None else self._prior.score(pairs)
        scored = []
        for row, (_, trajectory) in enumerate(pairs):
            floors = np.full(len(trajectory) + 1, self._floor)
            if priors is not None and (prior := priors[row].log_reward) is not None:
                floors = floors + np.minimum(prior, 0.0)
            keys = [table_key(trajectory.token_ids[:t]) for t in range(len(trajectory) + 1)]
            values = [self._log_reward.get(k, f) for k, f in zip(keys, floors, strict=True)]
            scored.append(trajectory.scored(values))
        return scored


def table_key(token_ids: IntArray) -> bytes:
    """Returns the table's key of a z."""
    return np.asarray(token_ids, dtype=np.int32).tobytes()
