"""Simulated chains: the frozen LM calculates itself, and what a calculator would not write is
rejected.

log R includes the LM's probability of the calculator's tokens, so a chain is drawn without one and
kept if every value is right. The query is a real one, and so is its answer: the policy does not
read the answer, and the posterior of another one would not be its target.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from gfn_ray.decoding.simulation import SimulatedQuery, Verdict, simulated_id
from gfn_ray.sampling.tools import ToolLoop
from gfn_ray.support import Support
from gfn_ray.tasks.arithmetic.answers import AnswerCheck
from gfn_ray.trajectory import Query


@dataclass(frozen=True, eq=False)
class ChainSimulation:
    """support: that of z, with `calculator` as its tool, if it has one. check: the target's penalty
    on wrong ends, if it has one. longest_answer: in tokens."""

    support: Support
    calculator: ToolLoop | None
    check: AnswerCheck | None
    longest_answer: int
    tokenizer: Any

    @property
    def longest(self) -> int:
        return self.support.max_len + self.longest_answer

    @property
    def writes_queries(self) -> bool:
        return False

    @property
    def identity(self) -> str:
        tool = self.calculator is not None
        return json.dumps([self.support.max_len, self.support.vocab_size, tool, str(self.check)])

    def draft(self, query: Query, rng: np.random.Generator) -> ChainDraft:
        return ChainDraft(self, query, rng)

    def writes(self, query: Query, z: list[int]) -> bool:
        """Whether policy and calculator together can write exactly this z."""
        if self.calculator is None:
            return self.support.contains(z)
        return self.calculator.contains(query.prompt_ids, np.array(z, dtype=np.int32))


class ChainDraft:
    """A chain up to the answer's first token, which no chain contains, and the query's answer."""

    def __init__(self, told: ChainSimulation, query: Query, rng: np.random.Generator) -> None:
        self._told = told
        self._query = query
        self._answer = query.answer_ids.tolist()
        self._log_uniform = float(np.log(rng.random()))
        self._cursor = told.support.cursor()
        self._chain: list[int] = []
        self._answered = 0
        self._term = 0.0

    def take(self, token: int) -> Verdict:
        if not self._answered and token != self._answer[0]:
            try:
                self._cursor.advance(token)
            except ValueError:
                return Verdict.REJECTED
            self._chain.append(token)
            return Verdict.GOES_ON
        if token != self._answer[self._answered] or not (self._answered or self._passes()):
            return Verdict.REJECTED
        self._answered += 1
        return Verdict.KEPT if self._answered == len(self._answer) else Verdict.GOES_ON

    def _passes(self) -> bool:
        told = self._told
        if told.check is not None:
            self._term = told.check(self._query, told.tokenizer.decode(self._chain))
        return self._log_uniform < self._term and told.writes(self._query, self._chain)

    def simulated(self, log_p: float) -> SimulatedQuery:
        own = replace(self._query, query_id=simulated_id(self._query.query_id), demonstrations=())
        return SimulatedQuery(own, np.array(self._chain, dtype=np.int32), log_p + self._term)
