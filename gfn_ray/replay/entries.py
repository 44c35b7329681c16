"""The table of stored trajectories, as columns indexed by slot.

Owns the priority weight of an entry, whether it may be sampled, and the generation of its slot.
The query index knows which query holds which slots.

Weights are logarithms, log w = alpha * log score + recency * ln 2 * version. This is forward decay:
instead of halving every old weight when the version advances, new ones are larger. Logarithms do
not overflow at any version; `QueryMasses` re-centres before exp. Weights are compared only within a
query (`log_weights`); between queries only recency counts (`log_masses`).
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
    """Columns [capacity]; an empty slot has query_row -1.

    generation: how often the slot's content was removed or exchanged, so that (slot, generation)
        names one trajectory forever.
    gate_version: policy version for the staleness gate; a demonstration always passes the gate,
        until a policy version has sampled the same z.
    recency_version: policy version of the entry; for a demonstration, the one current when added.
    arrival: running number of the latest add that wrote the entry; breaks ties.
    loss: magnitude of the latest reported loss; NaN if there is none yet.
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
        self._held_by_times: Counter[int] = Counter()  # number of entries by times sampled
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
        """Puts an unsampled trajectory into a slot. version: its recency_version."""
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
        """Empties a slot; later updates that name its old generation are ignored."""
        self._uncount(slot)
        self.trajectories[slot] = None
        self.query_row[slot] = -1
        self.generation[slot] += 1

    def sampled(self, slots: IndexArray) -> None:
        """Counts one more draw of each of the distinct entries [N]."""
        before = Counter(self.times_sampled[slots].tolist())
        self.times_sampled[slots] += 1
        self._held_by_times.subtract(before)
        self._held_by_times.update({times + 1: held for times, held in before.items()})

    def move_gate(self, oldest_version: int) -> IndexArray:
        """Excludes policy versions below `oldest_version`; returns rows [N] of affected queries.

        One pass over a column per published version: simpler than an index by version, and correct
        even when versions go back after a restart.
        """
        low, high = sorted((oldest_version, self._oldest_version))
        self._oldest_version = oldest_version
        crossed = (self.gate_version >= low) & (self.gate_version < high) & (self.query_row >= 0)
        return self.query_row[crossed]

    def eligible(self, slots: IndexArray) -> BoolArray:
        """Which entries [N] may be sampled: inside the gate and not yet sampled too often."""
        return (self.gate_version[slots] >= self._oldest_version) & ~self.exhausted(slots)

    def exhausted(self, slots: IndexArray) -> BoolArray:
        """Which entries [N] have been sampled as often as allowed."""
        return self.times_sampled[slots] >= self._max_times_sampled

    def lowest(self, slots: list[int]) -> int:
        """The entry to evict first of those in `slots`.

        Entries that can no longer be sampled go first, then the lowest weight, then, among equals,
        the one written longest ago.
        """
        held = np.array(slots, dtype=np.int64)
        useless = ~self.eligible(held)
        if useless.any():
            held = held[useless]
        weights = self.log_weights(held, np.zeros(1, dtype=np.int64))
        lowest = held[weights == weights.min()]
        return int(lowest[self.arrival[lowest].argmin()])

    def log_weights(self, slots: IndexArray, starts: IndexArray) -> WeightArray:
        """Log weights [N] of entries, comparable only within a query.

        slots [N]: entries, query after query. starts [Q]: where each query begins; none is empty.

        With priority `loss`, an entry without a loss counts as the largest of its query, so that it
        is drawn soon. The maximum is over current entries: it falls when that entry's loss falls
        or the entry is evicted.
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
        """Log mass of each of Q queries: the recency of its newest eligible entry, nothing else.

        slots [N]: entries, query after query. sizes [Q]: entries of each query, at least one.
        -inf if fewer than SMALLEST_GROUP entries are eligible.

        Weights do not count. Their sum grows with the number of entries and their mean falls as
        they spread, so with either the least settled queries would get the fewest updates. Nor does
        the age of other entries, because a query that keeps more has more old ones.
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
        """Means over stored entries, from running counts, because a pass over a column is slow."""
        counts = +self._held_by_times  # drops zero counts
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
        """What restore() needs; of an empty slot only the generation matters."""
        slots = self.stored()
        return {
            "slots": slots,
            "trajectories": to_columns(self.held_at(slots)),
            "columns": {name: getattr(self, name)[slots] for name in _COLUMNS},
            "generation": self.generation,
            "oldest_version": self._oldest_version,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Restores what state() returned, in a new table."""
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
        """Removes an entry from the running counts before it is evicted or overwritten."""
        self._held_by_times[int(self.times_sampled[slot])] -= 1
        self._tokens -= int(self.length[slot])
