"""Simulated completions: what the frozen LM writes after a real prompt, kept by its reward.

p_ref(z | x) is the LM's own probability of writing z, end included, so what it writes freely is
drawn from that; kept with probability exp((r - r_max) / beta), it is a draw of the posterior. That
takes a reward with a bound. The query is the real one: only z* is simulated.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace

import numpy as np

from gfn_ray.decoding.simulation import SimulatedQuery, Verdict, simulated_id
from gfn_ray.errors import UserError
from gfn_ray.rewards.completion import CompletionReward
from gfn_ray.support import WholeSupport
from gfn_ray.tasks.demonstrations import demonstration_trajectory
from gfn_ray.trajectory import Query

# Rewards are summed and divided in another order than their bound.
ROUNDING = 1e-9


@dataclass(frozen=True, eq=False)
class CompletionSimulation:
    """target: with prior 1. most: the largest worth of a z, in nats. told: the settings that the
    worth depends on, and code by its contents."""

    support: WholeSupport
    target: CompletionReward
    most: float
    told: str

    @property
    def longest(self) -> int:
        return self.support.max_len + 1

    @property
    def writes_queries(self) -> bool:
        return False

    @property
    def identity(self) -> str:
        support = self.support
        bounds = [support.max_len, int(support.content.sum()), *support.stops]
        return json.dumps([bounds, self.most, self.told])

    def draft(self, query: Query, rng: np.random.Generator) -> CompletionDraft:
        return CompletionDraft(self, query, rng)


class CompletionDraft:
    """A completion up to its end: the token that log R scores, a stop string, or max_len."""

    def __init__(self, told: CompletionSimulation, query: Query, rng: np.random.Generator) -> None:
        self._told = told
        self._query = query
        self._log_uniform = float(np.log(rng.random()))
        self._cursor = told.support.cursor()
        self._tokens: list[int] = []
        self._worth = 0.0

    def take(self, token: int) -> Verdict:
        support = self._told.support
        if not support.masks[self._cursor.row, token]:
            return Verdict.REJECTED
        if not support.content[token]:  # log R scores one of the tokens that may end z
            return self._verdict() if token in self._query.answer_ids else Verdict.REJECTED
        self._cursor.advance(token)
        self._tokens.append(token)
        ended = self._cursor.closed or len(self._tokens) == support.max_len
        return self._verdict() if ended else Verdict.GOES_ON

    def _verdict(self) -> Verdict:
        told, query = self._told, self._query
        z = demonstration_trajectory(query.query_id, self._z, told.support)
        (judged,) = told.target.judge(query, [z])
        if judged.fault is not None:
            raise UserError(f"{judged.fault}; the reward must judge every simulated completion")
        self._worth = told.target.worth(query, z, judged.reward)
        if self._worth > told.most + ROUNDING:
            raise UserError(
                f"a simulated completion has the reward {judged.reward:g}, above task.reward_max; "
                "raise task.reward_max, or set --eval.simulated-queries 0"
            )
        return Verdict.KEPT if self._log_uniform < self._worth - told.most else Verdict.REJECTED

    def simulated(self, log_p: float) -> SimulatedQuery:
        own = replace(self._query, query_id=simulated_id(self._query.query_id), demonstrations=())
        return SimulatedQuery(own, self._z, log_p + self._worth)

    @property
    def _z(self) -> np.ndarray:
        return np.array(self._tokens, dtype=np.int32)
