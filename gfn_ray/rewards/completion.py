"""log R(z) = w log p_ref(z | x) + r(z) / beta at the whole z: a reward under a language model.

w = 1 is the posterior under the LM, the optimum of KL-regularised RL with coefficient beta
(Korbak et al. 2022, "RL with KL penalties is better viewed as Bayesian inference"); w = 0 is the
reward alone. p_ref(z | x) is the frozen LM's probability of writing z under the policy's support:
with the token that ends it, unless a stop string or max_len has.

Owns the sum. What r is, `functions` say.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from gfn_ray.rewards.functions.judge import Judge, Judged, Row
from gfn_ray.rewards.length_prior import LengthPrior
from gfn_ray.rewards.likelihood import LikelihoodReward
from gfn_ray.rewards.reward import LOG_P_REF, REWARD, Pair
from gfn_ray.support import WholeSupport
from gfn_ray.trajectory import Query, Trajectory

Array = npt.NDArray[np.float64]


class CompletionReward:
    """rows: by query id. text: what a function sees of a z. prior: w; 0 needs no LM. floor: least
    r / beta, in nats. length: what is added for the number of tokens, if anything."""

    def __init__(
        self,
        rows: Mapping[str, Row],
        judge: Judge,
        support: WholeSupport,
        text: Callable[[Any], str],
        *,
        prior: float,
        beta: float,
        tokens_per_forward: int,
        floor: float | None = None,
        length: LengthPrior | None = None,
    ) -> None:
        self._rows = rows
        self._judge = judge
        self._support = support
        self._text = text
        self.prior = prior
        self._beta = beta
        self._floor = floor
        self._length = length
        self._likelihood = LikelihoodReward(tokens_per_forward)
        self.faults: dict[int, str] = {}
        """Of the latest `score`, by place: why a trajectory has no log R."""
        self.parts: dict[str, Array] = {}
        """Of the latest `score` [B]: REWARD, and LOG_P_REF where the prior counts."""

    def load(self, load_model: Callable[[], Any]) -> None:
        """Takes the frozen LM, where the prior counts."""
        if self.prior:
            self._likelihood.load(load_model)

    def score(self, pairs: Sequence[Pair]) -> list[Trajectory]:
        """The trajectories in order, with log R [T+1] in nats; NaN where there is a fault."""
        judged = self._judged(pairs)
        self.faults = {i: one.fault for i, one in enumerate(judged) if one.fault is not None}
        log_prior = self.log_prior(pairs)
        self.parts = {REWARD: np.array([one.reward for one in judged])}
        if self.prior:
            self.parts[LOG_P_REF] = np.array(log_prior)
        scored = []
        for (query, z), one, log_p in zip(pairs, judged, log_prior, strict=True):
            log_reward = np.full(len(z) + 1, np.nan)
            if one.fault is None:
                log_reward[-1] = self.prior * log_p + self.worth(query, z, one.reward)
            scored.append(z.scored(log_reward))
        return scored

    def judge(self, query: Query, trajectories: Sequence[Trajectory]) -> list[Judged]:
        """r of each z of a query, or why there is none."""
        return self._judged([(query, z) for z in trajectories])

    def worth(self, query: Query, z: Trajectory, reward: float) -> float:
        """log R of a z without the model's term: r / beta, no less than the floor, and what its
        length is worth."""
        worth = self._worth_of(reward)
        return worth if self._length is None else worth + float(self._length(query, z)[-1])

    def largest_worth(self, reward: float) -> float:
        """A bound of `worth`, where no reward is larger."""
        worth, length = self._worth_of(reward), self._length
        return worth if length is None else worth + float(length.log_density(length.mean))

    def _worth_of(self, reward: float) -> float:
        worth = reward / self._beta
        return worth if self._floor is None else max(worth, self._floor)

    def log_prior(self, pairs: Sequence[Pair]) -> list[float]:
        """log p_ref(z | x) of each whole z, its end included; 0 where the prior does not count."""
        if not self.prior:
            return [0.0] * len(pairs)
        none = np.zeros(0, dtype=np.int32)
        ended = [
            (replace(query, answer_ids=none) if self._support.must_stop(z.token_ids) else query, z)
            for query, z in pairs
        ]
        return [one.final_log_reward for one in self._likelihood.score(ended)]

    def _judged(self, pairs: Sequence[Pair]) -> list[Judged]:
        rows = [self._rows[query.query_id] for query, _ in pairs]
        texts = [self._text(z.token_ids) for _, z in pairs]
        return self._judge(rows, texts, [z.token_ids.tolist() for _, z in pairs])
