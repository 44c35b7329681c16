"""Simulated rationales: what the frozen LM writes after a real sentence, weighted by the rest of R.

log R scores a prefix of a text, log p(z_1..t | x), so t is drawn first, uniformly, and then t
tokens are written. The answer after them is too unlikely for rejection, and its label's probability
moves with every M-step: both are left to the weight of the draw, R over the density it was drawn
with. The label is the data's, which the policy does not read.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace

import numpy as np

from gfn_ray.decoding.simulation import InSupport, SimulatedQuery, Verdict, simulated_id
from gfn_ray.support import BoundedSupport
from gfn_ray.trajectory import Query


@dataclass(frozen=True, eq=False)
class RationaleSimulation:
    """support: that of z."""

    support: BoundedSupport

    @property
    def longest(self) -> int:
        return self.support.max_len

    @property
    def writes_queries(self) -> bool:
        return False

    @property
    def identity(self) -> str:
        bounds = (self.support.min_len, self.support.max_len)
        return json.dumps([*bounds, int(self.support.content.sum())])

    def draft(self, query: Query, rng: np.random.Generator) -> RationaleDraft:
        length = int(rng.integers(self.support.min_len, self.support.max_len + 1))
        return RationaleDraft(self.support, query, length)


class RationaleDraft:
    """A rationale of a length drawn beforehand."""

    def __init__(self, support: BoundedSupport, query: Query, length: int) -> None:
        self._query = query
        self._length = length
        self._rationale = InSupport(support)

    def take(self, token: int) -> Verdict:
        if not self._rationale.add(token):
            return Verdict.REJECTED
        if len(self._rationale.tokens) < self._length:
            return Verdict.GOES_ON
        return Verdict.KEPT if self._rationale.may_stop else Verdict.REJECTED

    def simulated(self, log_p: float) -> SimulatedQuery:
        own = replace(self._query, query_id=simulated_id(self._query.query_id))
        return SimulatedQuery(own, np.array(self._rationale.tokens, dtype=np.int32), log_p)
