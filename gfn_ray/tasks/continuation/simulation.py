"""Simulated sentences: what the frozen LM writes after a real prompt, up to its first full stop.

log R scores the full stop, so the sentences of one prompt have a distribution, and those outside
the support are rejected. The query is the real one: only z* is simulated.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace

import numpy as np

from gfn_ray.decoding.simulation import InSupport, SimulatedQuery, Verdict, simulated_id
from gfn_ray.support import BoundedSupport
from gfn_ray.trajectory import Query


@dataclass(frozen=True, eq=False)
class SentenceSimulation:
    """support: that of z."""

    support: BoundedSupport

    @property
    def longest(self) -> int:
        return self.support.max_len + 1

    @property
    def writes_queries(self) -> bool:
        return False

    @property
    def identity(self) -> str:
        bounds = (self.support.min_len, self.support.max_len)
        return json.dumps([*bounds, int(self.support.content.sum())])

    def draft(self, query: Query, rng: np.random.Generator) -> SentenceDraft:
        return SentenceDraft(self.support, query)


class SentenceDraft:
    """A sentence up to the query's full stop. A stop token that log R does not score ends none."""

    def __init__(self, support: BoundedSupport, query: Query) -> None:
        self._query = query
        self._sentence = InSupport(support)
        self._stop = int(query.answer_ids[0])

    def take(self, token: int) -> Verdict:
        if token == self._stop:
            return Verdict.KEPT if self._sentence.may_stop else Verdict.REJECTED
        return Verdict.GOES_ON if self._sentence.add(token) else Verdict.REJECTED

    def simulated(self, log_p: float) -> SimulatedQuery:
        own = replace(self._query, query_id=simulated_id(self._query.query_id), demonstrations=())
        return SimulatedQuery(own, np.array(self._sentence.tokens, dtype=np.int32), log_p)
