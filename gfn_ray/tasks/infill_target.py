"""Terms of the infilling target beside the frozen LM's: against copying, against drift in length.

A frozen LM rewards a repeated sentence and a short one. Owns the terms that can be added to
log R at every prefix that may end; each is finite, so that nothing becomes a dead end.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from gfn_ray.evaluation.text import is_copy
from gfn_ray.rewards.reward import Pair, Reward
from gfn_ray.trajectory import Query, Trajectory

Array = npt.NDArray[np.float64]


class Term(Protocol):
    """What is added to log R, in nats."""

    def __call__(self, query: Query, trajectory: Trajectory) -> Array:
        """One value a prefix [T+1], finite wherever the prefix is terminable."""
        ...


@dataclass(frozen=True)
class CopyPenalty:
    """-nats for a prefix that nearly repeats a given sentence, as `copy_fraction` counts it.

    token_texts: of every token id, as they stand within a text.
    """

    nats: float
    token_texts: Sequence[str]

    def __call__(self, query: Query, trajectory: Trajectory) -> Array:
        given = query.texts["given"].split("\n")
        texts = [self.token_texts[token] for token in trajectory.token_ids]
        values = np.zeros(len(trajectory) + 1)
        for t in np.flatnonzero(trajectory.terminable):
            if is_copy("".join(texts[:t]), given):
                values[t] = -self.nats
        return values


@dataclass(frozen=True)
class LengthPrior:
    """log of a normal density at the number of tokens of each prefix."""

    mean: float
    std: float

    @staticmethod
    def of(lengths: Sequence[int]) -> LengthPrior:
        """The normal density of these lengths, two or more of which differ."""
        return LengthPrior(float(np.mean(lengths)), float(np.std(lengths, ddof=1)))

    def __call__(self, query: Query, trajectory: Trajectory) -> Array:
        away = (np.arange(len(trajectory) + 1, dtype=np.float64) - self.mean) / self.std
        log_density: Array = -0.5 * away**2 - math.log(self.std * math.sqrt(2 * math.pi))
        return log_density


class AdjustedReward:
    """Another reward plus terms, prefix by prefix."""

    def __init__(self, reward: Reward, terms: Sequence[Term]) -> None:
        self._reward = reward
        self._terms = list(terms)

    def load(self, load_model: Callable[[], Any]) -> None:
        """Loads the other reward."""
        self._reward.load(load_model)

    def score(self, pairs: Sequence[Pair]) -> list[Trajectory]:
        """The trajectories in order, with log R [T+1] in nats attached."""
        scored = self._reward.score(pairs)
        adjusted = []
        for (query, _), trajectory in zip(pairs, scored, strict=True):
            if trajectory.log_reward is None:
                raise ValueError(f"a trajectory of query {query.query_id!r} came back unscored")
            log_reward = trajectory.log_reward.astype(np.float64)
            for term in self._terms:
                log_reward = log_reward + term(query, trajectory)
            adjusted.append(trajectory.scored(log_reward))
        return adjusted
