"""What the buffer knows of each stored trajectory, as columns indexed by slot.

Owns the priority weight of an entry, whether it may be sampled, and the generation of
its slot. Which query holds which slots is the query index's business.

Weights are logarithms, log w = alpha * log score + recency * ln 2 * version. That is forward
decay: instead of halving every old weight when the version advances, new ones are larger. As
a logarithm it does not overflow at any version; `QueryMasses` re-centres before exp. Weights
of one query alone are compared (`log_weights`); between queries recency alone counts
(`log_masses`).
"""

from __future__ import annotations

from collections import Counter
from typing import Any, cast

import numpy as np

from gfn_ray.config import ReplayConfig
from gfn_ray.replay.footprint import bytes_of_entry
from gfn_ray.replay.sum_tree import IndexArray, WeightArray
from gfn_ray.storage.trajectories import from_columns, to_columns
from gfn_ray.trajectory import BoolArray, Trajectory

# Added to |loss|, so that a trajectory that fits perfectly today can come back later.
LOSS_FLOOR = 1e-3
# Entries a query needs to be sampled: the batch-mean root flow compares trajectories of
# one query with each other.
SMALLEST_GROUP = 2

_NEVER = int(np.iinfo(np.int64).max)
_UNGATED = int(np.iinfo(np.int64).min)
_COLUMNS = (
    "query_row",
    "gate_version",
    "recency_version",
    "times_sampled",
    "arrival",
    "length",
    "log_reward",
    "loss",
)


class EntryTable:
    """Columns [capacity]; a slot that holds nothing has query_row -1.

    generation: how often the content of the slot was taken out or exchanged, so that
        (slot, generation) names one trajectory for ever.
    gate_version: policy version that the staleness gate looks at; a seed has
        one that no gate shuts out, until a policy version has written the same z.
    recency_version: policy version of the entry, for a seed the one current at its adding.
    arrival: running number of the latest add that wrote the entry; it breaks ties.
    loss: the latest that was reported of it, in size; NaN where none was yet.
    """

    def __init__(self, config: ReplayConfig) -> None:
        capacity = config.capacity
        self.trajectories: list[Trajectory | None] = [None] * capacity
        self.query_row: IndexArray = np.full(capacity, -1, dtype=np.int64)
        self.generation: IndexArray = np.zeros(capacity, dtype=np.int64)
        self.gate_version: IndexArray = np.zeros(capacity, dtype=np.int64)
        self.recency_version: IndexArray = np.zeros(capacity, dtype=np.int64)
        self.times_sampled: IndexArray = np.zeros(capacity, dtype=np.int64)
        self.arrival: IndexArray = np.zeros(capacity, dtype=np.int64)
        self.length: IndexArray = np.zeros(capacity, dtype=np.int64)
        self.log_reward: WeightArray = np.zeros(capacity)
        self.loss: WeightArray = np.zeros(capacity)
        self._priority = config.priority
        self._alpha = config.alpha
        self._log_growth = config.recency * float(np.log(2.0))
        self._max_times_sampled = config.max_times_sampled or _NEVER
        self._oldest_version: int = _UNGATED
        self._held_by_times: Counter[int] = Counter()  # entries, by how often they were sampled
        self._tokens = 0

    def held(self, slot: int) -> Trajectory:
        """The trajectory in an occupied slot."""
        trajectory = self.trajectories[slot]
        assert trajectory is not None, f"slot {slot} is empty"
        return trajectory

    def held_at(self, slots: IndexArray) -> list[Trajectory]:
        """The trajectories in occupied slots [N]."""
        trajectories = self.trajectories
        found = [trajectories[slot] for slot in slots.tolist()]
        assert None not in found, "a slot is empty"
        return cast(list[Trajectory], found)

    def write(
        self,
        slot: int,
        trajectory: Trajectory,
        *,
        row: int,
        version: int,
        loss: float,
        arrival: int,
    ) -> None:
        """Put a trajectory into a slot, not yet sampled; `version` is the one recency counts."""
        seed = trajectory.policy_version < 0
        if self.query_row[slot] >= 0:
            self._uncount(slot)
        self.trajectories[slot] = trajectory
        self.query_row[slot] = row
        self.gate_version[slot] = _NEVER if seed else trajectory.policy_version
        self.recency_version[slot] = version
        self.times_sampled[slot] = 0
        self.arrival[slot] = arrival
        self.length[slot] = len(trajectory)
        self.log_reward[slot] = trajectory.final_log_reward
        self.loss[slot] = loss
        self._held_by_times[0] += 1
        self._tokens += len(trajectory)

    def clear(self, slot: int) -> None:
        """Empty a slot; updates that still name its old generation will be ignored."""
        self._uncount(slot)
        self.trajectories[slot] = None
        self.query_row[slot] = -1
        self.generation[slot] += 1

    def sampled(self, slots: IndexArray) -> None:
        """Count one more draw of each of the entries [N], none of them named twice."""
        before = Counter(self.times_sampled[slots].tolist())
        self.times_sampled[slots] += 1
        self._held_by_times.subtract(before)
        self._held_by_times.update({times + 1: held for times, held in before.items()})

    def move_gate(self, oldest_version: int) -> IndexArray:
        """Shut out policy versions below `oldest_version`; rows [N] of the queries affected.

        One pass over a column per published version; plainer than an index by version,
        and right also when versions go back after a restart.
        """
        low, high = sorted((oldest_version, self._oldest_version))
        self._oldest_version = oldest_version
        crossed = (self.gate_version >= low) & (self.gate_version < high) & (self.query_row >= 0)
        return self.query_row[crossed]

    def eligible(self, slots: IndexArray) -> BoolArray:
        """Which entries [N] may be sampled: inside the gate, and not yet sampled too often."""
        return (self.gate_version[slots] >= self._oldest_version) & ~self.exhausted(slots)

    def exhausted(self, slots: IndexArray) -> BoolArray:
        """Which entries [N] have been sampled as often as allowed."""
        return self.times_sampled[slots] >= self._max_times_sampled

    def lowest(self, slots: list[int]) -> int:
        """The entry to evict first of those in `slots`.

        What can no longer be sampled goes before what can, then the lowest weight, then,
        among equals, the one written longest ago.
        """
        held = np.array(slots, dtype=np.int64)
        useless = ~self.eligible(held)
        if useless.any():
            held = held[useless]
        weights = self.log_weights(held, np.zeros(1, dtype=np.int64))
        lowest = held[weights == weights.min()]
        return int(lowest[self.arrival[lowest].argmin()])

    def log_weights(self, slots: IndexArray, starts: IndexArray) -> WeightArray:
        """Log weights [N] of entries, to be compared with others of their query alone.

        slots [N]: entries, query after query. starts [Q]: where each of the queries begins;
        none is empty.

        With priority `loss`, an entry of which no loss is known counts as the largest of those
        it is compared with, so that it comes up soon. Nothing remembers a larger one: once the
        loss of that entry falls, or the entry is gone, nobody counts as much any more.
        """
        recency = self._log_growth * self.recency_version[slots].astype(np.float64)
        if self._priority == "uniform":
            return recency
        if self._priority == "log_reward":
            return self._alpha * self.log_reward[slots] + recency
        losses = self.loss[slots]
        unknown = np.isnan(losses)
        largest = np.maximum.reduceat(np.where(unknown, 0.0, losses), starts)
        sizes = np.diff(starts, append=len(slots))
        losses[unknown] = np.repeat(largest, sizes)[unknown]
        return self._alpha * np.log(losses + LOSS_FLOOR) + recency

    def log_masses(self, slots: IndexArray, sizes: IndexArray) -> WeightArray:
        """Log mass of each of Q queries: how recent its newest eligible entry is, nothing else.

        slots [N]: entries, query after query. sizes [Q]: how many each query has, none
        of them none. -inf where fewer than SMALLEST_GROUP entries are eligible.

        Weights have no part in it. Their sum grows with the number of entries and their mean
        falls as they spread, so that by either the least settled queries would get the fewest
        updates. Nor has the age of other entries, of which there are more where more is kept.
        """
        starts = np.cumsum(sizes) - sizes
        eligible = self.eligible(slots)
        counts = np.add.reduceat(eligible.astype(np.int64), starts)
        versions = np.where(eligible, self.recency_version[slots], 0)
        newest = np.maximum.reduceat(versions, starts)
        return np.where(counts >= SMALLEST_GROUP, self._log_growth * newest, -np.inf)

    def stored(self) -> IndexArray:
        """Occupied slots [N]."""
        return np.flatnonzero(self.query_row >= 0)

    def means(self) -> dict[str, float]:
        """Over what is stored, from running counts: a pass over a column is slow."""
        counts = +self._held_by_times  # without what no entry has
        held = max(counts.total(), 1)
        mean_length = self._tokens / held
        columns = (self.generation, *(getattr(self, name) for name in _COLUMNS))
        each = bytes_of_entry(mean_length, sum(column.itemsize for column in columns))
        return {
            "mean_times_sampled": sum(times * n for times, n in counts.items()) / held,
            "max_times_sampled": float(max(counts, default=0)),
            "mean_length": mean_length,
            "bytes_per_trajectory": each if counts else 0.0,
        }

    def state(self) -> dict[str, Any]:
        """What restore() needs; of an empty slot only its generation is ever read again."""
        slots = self.stored()
        return {
            "slots": slots,
            "trajectories": to_columns(self.held_at(slots)),
            "columns": {name: getattr(self, name)[slots] for name in _COLUMNS},
            "generation": self.generation,
            "oldest_version": self._oldest_version,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take over what state() described, in a table that has held nothing yet."""
        slots = state["slots"]
        trajectories = from_columns(state["trajectories"])
        for slot, trajectory in zip(slots.tolist(), trajectories, strict=True):
            self.trajectories[slot] = trajectory
        for name in _COLUMNS:
            getattr(self, name)[slots] = state["columns"][name]
        self._held_by_times = Counter(self.times_sampled[slots].tolist())
        self._tokens = int(self.length[slots].sum())
        self.generation[:] = state["generation"]
        self._oldest_version = state["oldest_version"]

    def _uncount(self, slot: int) -> None:
        """Take an entry that is about to go, or to be written over, out of the running counts."""
        self._held_by_times[int(self.times_sampled[slot])] -= 1
        self._tokens -= int(self.length[slot])
