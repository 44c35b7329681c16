"""The replay buffer: decides which scored trajectories are kept and which are sampled next.

Owns admission, de-duplication, eviction and sampling, all seeded: the same calls give the same
batches. Stores untempered log-rewards. Does not own the pace of learning (`RateLimiter`), the Ray
actor around it, or what a loss is. Never blocks.

Sampling has two levels. Queries are drawn first, with weight 2 ** (recency * version of the newest
eligible trajectory). Then trajectories of each query are drawn by priority. So the number of
trajectories of a query, and the level and spread of their rewards or losses, do not change how
often it is drawn. Masses of changed queries are updated when a batch is drawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from gfn_ray.config import ReplayConfig
from gfn_ray.replay.entries import EntryTable
from gfn_ray.replay.outcomes import AddReport, ReplayBatch
from gfn_ray.replay.query_index import QueryIndex
from gfn_ray.replay.query_masses import QueryMasses
from gfn_ray.replay.sum_tree import IndexArray
from gfn_ray.seeds import Stream, generator, seed_of
from gfn_ray.trajectory import Trajectory

_NO_LOSS = float("nan")  # of an entry that no update has used yet

_COUNTERS = (
    "_version",
    "_arrivals",
    "_inserted",
    "_duplicates",
    "_evicted",
    "_sampled",
)


class ReplayBuffer:
    """Scored trajectories with a quota per query and a total capacity.

    group: trajectories in a learner group. At capacity, queries with more than this are thinned
    first; then the query that has been idle longest loses its entries until it is gone. Thinning
    alone would leave every query with one or two once the data set has more queries than the
    buffer has room for groups. newest_version: of the policy, if an earlier buffer saw one.
    """

    def __init__(
        self, config: ReplayConfig, seed: int, *, group: int = 8, newest_version: int = 0
    ) -> None:
        self._config = config
        self._group = group
        self._rng = generator(seed_of(Stream.REPLAY, seed))
        self._entries = EntryTable(config)
        # Every stored query has at least one entry, so rows cannot outnumber slots.
        self._queries = QueryIndex(config.capacity, config.edit_distance)
        self._masses = QueryMasses(config.capacity)
        self._changed_rows: set[int] = set()
        self._free_slots = list(range(config.capacity - 1, -1, -1))
        self._version = newest_version
        self._arrivals = 0
        self._inserted = self._duplicates = self._evicted = self._sampled = 0

    def __len__(self) -> int:
        """Number of stored trajectories."""
        return self._config.capacity - len(self._free_slots)

    @property
    def newest_version(self) -> int:
        """The newest policy version ever seen."""
        return self._version

    def trajectories_of(self, query_id: str) -> list[Trajectory]:
        """The stored trajectories of one query, oldest entry first."""
        return [self._entries.held(slot) for slot in self._queries.slots_of(query_id)]

    def add(self, trajectories: Sequence[Trajectory]) -> AddReport:
        """Stores scored trajectories; all of them, or, with a ValueError, none.

        A new trajectory is always admitted, whatever its weight, and an older one is evicted: a
        buffer that kept only the best would soon hide the current policy from the learner.
        """
        for trajectory in trajectories:
            _check_scored(trajectory)
        duplicates = evicted = 0
        for trajectory in trajectories:
            self._version = max(self._version, trajectory.policy_version)
            slot = self._queries.find(trajectory.query_id, trajectory.token_ids)
            if slot is not None:
                self._merge(slot, trajectory)
                duplicates += 1
            else:
                evicted += self._make_room(trajectory.query_id)
                self._insert(trajectory)
        added = len(trajectories) - duplicates
        self._inserted += added
        self._duplicates += duplicates
        self._evicted += evicted
        return AddReport(added, duplicates, evicted)

    def sample(self, queries: int, per_query: int, current_version: int) -> ReplayBatch | None:
        """Draws up to `per_query` trajectories of each of up to `queries` queries, none twice.

        A query takes part if two or more of its trajectories are eligible: no older than
        `max_staleness` versions behind `current_version`, and sampled fewer than
        `max_times_sampled` times. None if there is no such query. Counts as sampling.
        """
        if queries < 1 or per_query < 1:
            raise ValueError(f"need queries >= 1 and per_query >= 1, got {queries}, {per_query}")
        self._version = max(self._version, current_version)
        if self._config.max_staleness is not None:
            crossed = self._entries.move_gate(current_version - self._config.max_staleness)
            self._changed_rows.update(crossed.tolist())
        self._refresh_masses()
        rows = self._masses.draw(queries, self._rng)
        if len(rows) == 0:
            return None
        slots = self._choose_entries(rows, per_query)
        self._entries.sampled(slots)
        exhausted = slots[self._entries.exhausted(slots)]
        self._changed_rows.update(self._entries.query_row[exhausted].tolist())
        self._sampled += len(slots)
        return ReplayBatch(
            trajectories=self._entries.held_at(slots),
            slots=slots,
            generations=self._entries.generation[slots],
        )

    def update_priorities(
        self, slots: npt.ArrayLike, generations: npt.ArrayLike, losses: npt.ArrayLike
    ) -> int:
        """Records losses [N] of sampled entries [N]; returns how many are still stored.

        An entry that has since been evicted or overwritten has another generation, and its loss is
        ignored.
        """
        at = np.asarray(slots, dtype=np.int64)
        tags = np.asarray(generations, dtype=np.int64)
        values = np.abs(np.asarray(losses, dtype=np.float64))
        if not at.shape == tags.shape == values.shape:
            raise ValueError(
                f"slots {at.shape}, generations {tags.shape} and losses {values.shape} differ "
                "in shape"
            )
        if not np.isfinite(values).all():
            raise ValueError("a loss is NaN or infinite; replay cannot rank it")
        if at.size == 0:
            return 0
        stored = (self._entries.generation[at] == tags) & (self._entries.query_row[at] >= 0)
        self._entries.loss[at[stored]] = values[stored]
        return int(stored.sum())

    def stats(self) -> dict[str, float]:
        """Counts since the start (inserted - evicted = size), and means over stored entries."""
        return {
            "size": float(len(self)),
            "queries": float(len(self._queries)),
            "inserted": float(self._inserted),
            "duplicates": float(self._duplicates),
            "evicted": float(self._evicted),
            "sampled": float(self._sampled),
            **self._entries.means(),
        }

    def state(self) -> dict[str, Any]:
        """Everything later calls depend on: arrays, plain values, trajectories as columns."""
        return {
            "entries": self._entries.state(),
            "queries": self._queries.state(),
            "masses": self._masses.state(),
            "rng": self._rng.bit_generator.state,
            "changed_rows": np.array(sorted(self._changed_rows), dtype=np.int64),
            "free_slots": np.array(self._free_slots, dtype=np.int64),
            "counters": {name: getattr(self, name) for name in _COUNTERS},
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Restores what state() returned, in a new buffer with the same settings."""
        self._entries.restore(state["entries"])
        self._queries.restore(state["queries"], lambda slot: self._entries.held(slot).token_ids)
        self._masses.restore(state["masses"])
        self._rng.bit_generator.state = state["rng"]
        self._changed_rows = set(state["changed_rows"].tolist())
        self._free_slots = state["free_slots"].tolist()
        for name in _COUNTERS:
            setattr(self, name, state["counters"][name])

    def _insert(self, trajectory: Trajectory) -> None:
        slot = self._free_slots.pop()
        row = self._queries.add(trajectory.query_id, slot, trajectory.token_ids)
        self._write(slot, trajectory, row, self._recency_version(trajectory), _NO_LOSS)

    def _merge(self, slot: int, new: Trajectory) -> None:
        """Merges a trajectory with its stored duplicate: the one with the higher reward stays,
        with the newer one's sampling record, and counts as just added."""
        old = self._entries.held(slot)
        better = max(new, old, key=lambda one: (one.final_log_reward, one.policy_version))
        newer = max(better, new, old, key=lambda one: one.policy_version)
        kept = better if newer is better else better.sampled_as(newer)
        loss = float(self._entries.loss[slot])
        if better is new and not np.array_equal(new.token_ids, old.token_ids):
            # Another z, near the old one: a loss still in flight belongs to the old z.
            self._queries.exchange(new.query_id, slot, old.token_ids, new.token_ids)
            self._entries.generation[slot] += 1
            loss = _NO_LOSS
        recency = max(self._recency_version(new), int(self._entries.recency_version[slot]))
        self._write(slot, kept, int(self._entries.query_row[slot]), recency, loss)
        self._queries.touch(new.query_id)

    def _write(
        self, slot: int, trajectory: Trajectory, row: int, version: int, loss: float
    ) -> None:
        self._arrivals += 1
        self._entries.write(
            slot, trajectory, row=row, version=version, loss=loss, arrival=self._arrivals
        )
        self._changed_rows.add(row)

    def _make_room(self, query_id: str) -> int:
        """Evicts what one more entry of this query displaces; returns the number evicted."""
        if self._queries.size_of(query_id) >= self._config.per_query:
            victim = query_id
        elif self._free_slots:
            return 0
        else:
            victim = self._queries.fullest()
            if self._queries.size_of(victim) <= self._group:
                victim = self._queries.longest_idle()
        slot = self._entries.lowest(self._queries.slots_of(victim))
        row = self._queries.remove(victim, slot, self._entries.held(slot).token_ids)
        self._entries.clear(slot)
        self._free_slots.append(slot)
        self._changed_rows.add(row)
        return 1

    def _refresh_masses(self) -> None:
        if not self._changed_rows:
            return
        rows = np.array(sorted(self._changed_rows), dtype=np.int64)
        self._changed_rows.clear()
        slots, sizes = self._queries.segments(rows)
        held = sizes > 0
        log_masses = np.full(len(rows), -np.inf)
        if held.any():
            log_masses[held] = self._entries.log_masses(slots, sizes[held])
        self._masses.set(rows, log_masses)

    def _choose_entries(self, rows: IndexArray, per_query: int) -> IndexArray:
        """Slots [B] of the queries at rows [Q], by weight without replacement (Gumbel top-k)."""
        slots, sizes = self._queries.segments(rows)
        eligible = self._entries.eligible(slots)
        slots, owner = slots[eligible], np.repeat(np.arange(len(rows)), sizes)[eligible]
        firsts = np.searchsorted(owner, np.arange(len(rows)))
        keys = self._entries.log_weights(slots, firsts) + self._rng.gumbel(size=len(slots))
        order = np.lexsort((-keys, owner))
        rank = np.arange(len(slots)) - firsts[owner]
        chosen: IndexArray = slots[order[rank < per_query]]
        return chosen

    def _recency_version(self, trajectory: Trajectory) -> int:
        """A demonstration has no policy version and counts as new when added."""
        seed = trajectory.policy_version < 0
        return self._version if seed else trajectory.policy_version


def _check_scored(trajectory: Trajectory) -> None:
    fault = trajectory.reward_fault  # raises ValueError if not scored
    if fault is not None:
        raise ValueError(
            f"replay cannot rank a trajectory of query {trajectory.query_id!r}: {fault}"
        )
