"""Draws the queries of a batch from log masses, on a sum tree.

Owns the scaling of log masses to floats and the stratified draw without replacement. Does not know
how a mass is computed.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from gfn_ray.replay.sum_tree import IndexArray, SumTree, WeightArray

# Leaf weights are exp(log mass - centre). Within +-SPAN nats of the centre they are
# normal float64 with room for a sum over any number of queries (exp(709) overflows).
SPAN = 300.0
# Minimum exponent of a drawable query: its odds against any other are nil, but it must stay above
# 0 to be drawn once nothing else is left.
FLOOR = -2 * SPAN


class QueryMasses:
    """Draws distinct rows in proportion to exp(log mass); log mass -inf is never drawn.

    Log masses grow without bound as versions advance (forward decay), so the centre
    follows them: whenever the total leaves exp(+-SPAN), all leaves are recomputed around the
    current maximum.
    """

    def __init__(self, rows: int) -> None:
        self._log: WeightArray = np.full(rows, -np.inf)
        self._tree = SumTree(rows)
        self._centre = 0.0

    def set(self, rows: IndexArray, log_masses: WeightArray) -> None:
        """Sets the log masses [N] of rows [N]; -inf excludes a row from the draw."""
        self._log[rows] = log_masses
        if log_masses.max(initial=-np.inf) - self._centre > SPAN:
            self._recentre()
            return
        self._tree.set(rows, self._scaled(log_masses))
        if 0 < self._tree.total < np.exp(-SPAN):
            self._recentre()

    def draw(self, count: int, rng: np.random.Generator) -> IndexArray:
        """Draws up to `count` distinct rows; fewer only if fewer can be drawn.

        The cumulative mass is cut into `count` equal strata with one draw in each, so a row of mass
        m is drawn count * m / total times on average, with less variance than independent draws.
        Rows hit twice leave a gap, which is filled the same way from the remaining rows.
        """
        chosen = np.empty(0, dtype=np.int64)
        removed: list[tuple[IndexArray, WeightArray]] = []
        while len(chosen) < count and self._tree.total > 0:
            missing = count - len(chosen)
            strata = np.arange(missing) + rng.random(missing)
            found = np.unique(self._tree.find(strata * (self._tree.total / missing)))
            chosen = np.concatenate([chosen, found])
            if len(chosen) < count:
                removed.append((found, self._tree.get(found)))
                self._tree.set(found, np.zeros(len(found)))
        for rows, weights in removed:
            self._tree.set(rows, weights)
        return chosen

    def state(self) -> dict[str, Any]:
        """What restore() needs, including the exact weights."""
        leaves = np.arange(self._tree.capacity)
        return {"log": self._log, "weights": self._tree.get(leaves), "centre": self._centre}

    def restore(self, state: dict[str, Any]) -> None:
        """Restores what state() returned."""
        self._log[:] = state["log"]
        self._tree.set(np.arange(self._tree.capacity), state["weights"])
        self._centre = state["centre"]

    def _scaled(self, log_masses: WeightArray) -> WeightArray:
        weights = np.exp(np.maximum(log_masses - self._centre, FLOOR))
        return np.where(np.isneginf(log_masses), 0.0, weights)

    def _recentre(self) -> None:
        self._centre = float(self._log.max())
        self._tree.set(np.arange(len(self._log)), self._scaled(self._log))
