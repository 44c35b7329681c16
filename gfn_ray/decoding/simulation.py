"""Exact posterior samples: the frozen LM writes z* and y itself, so z* is a draw of p(z | x, y).

Keeping or rejecting z* and y together, by any rule g(z*, y), leaves p(z | x, y) g(z, y) as the
conditional; so a task's length prior, penalties and bounds are met by rejection. A rejected draft
starts again from z*: redrawing y alone would favour z* for which a good y is rare. The LM writes as
it is: no adapter, no support, temperature 1. Source of the idea: simulation-based calibration
(Talts et al. 2018) and bidirectional Monte Carlo (Grosse et al. 2015). Imports nothing heavy.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Protocol

import numpy as np

from gfn_ray.support import Support
from gfn_ray.trajectory import IntArray, Query

QUERIES_AT_ONCE = 8
"""Queries of one call, so that each has several drafts."""
_TOKENS_A_DRAFT = 16
"""Of reward.tokens_per_forward: 64 drafts in one call by default, a few seconds on two cores for a
small model."""


def drafts_at_once(tokens_per_forward: int) -> int:
    """Drafts of one call."""
    return max(QUERIES_AT_ONCE, tokens_per_forward // _TOKENS_A_DRAFT)


class Verdict(Enum):
    """What becomes of a draft after a token."""

    GOES_ON = "goes on"
    KEPT = "kept"
    REJECTED = "rejected"


@dataclass(frozen=True, eq=False)
class SimulatedQuery:
    """A query whose answer the LM wrote, and z* with it.

    log_density: log of what (z*, y) was drawn in proportion to, in nats, up to a constant that all
    queries share. Where it differs from log R(z*) by such a constant, z* is exact.
    """

    query: Query
    token_ids: IntArray
    log_density: float


def simulated_id(query_id: str) -> str:
    """The id of a query that was made of this one."""
    return f"{query_id}/simulated"


class Draft(Protocol):
    """One attempt at a z* and y of a query."""

    def take(self, token: int) -> Verdict:
        """Reads the next token that the LM wrote."""
        ...

    def simulated(self, log_p: float) -> SimulatedQuery:
        """Returns what was kept. log_p: of all tokens taken, given the context, in nats."""
        ...


class Simulation(Protocol):
    """How a task's queries are simulated. Sent to the reward actors."""

    @property
    def longest(self) -> int:
        """Most tokens that a draft takes."""
        ...

    @property
    def writes_queries(self) -> bool:
        """Whether the LM writes a part of the query, too, rather than z* of the data's own."""
        ...

    @property
    def identity(self) -> str:
        """Everything but model and context that drafts depend on."""
        ...

    def draft(self, query: Query, rng: np.random.Generator) -> Draft:
        """Begins a draft after the query's context."""
        ...


@dataclass(frozen=True)
class Drafted:
    """The outcome of drafts. kept: per query, the first that was kept, or None. drafts, accepted:
    numbers over all queries. fault: why the model could write none; empty if it could."""

    kept: list[SimulatedQuery | None]
    drafts: int
    accepted: int
    fault: str = ""


class InSupport:
    """Tokens as far as they are a beginning of a z of a support without tools."""

    def __init__(self, support: Support) -> None:
        self._support = support
        self._cursor = support.cursor()
        self._stops = set(support.stop_ids.tolist())
        self.tokens: list[int] = []

    def add(self, token: int) -> bool:
        """Whether the token may follow; it is added if so. A stop token never may."""
        legal = token not in self._stops and bool(self._support.masks[self._cursor.row, token])
        if legal:
            self._cursor.advance(token)
            self.tokens.append(token)
        return legal

    @property
    def may_stop(self) -> bool:
        return self._support.contains(self.tokens)
