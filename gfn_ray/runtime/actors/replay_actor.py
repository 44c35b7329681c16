"""The actor that keeps trajectories."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from gfn_ray.config import JobConfig
from gfn_ray.storage.serialization import Record
from gfn_ray.storage.trajectories import pack_trajectories, unpack_trajectories

# Of a call's trajectories, as many come back to the controller, for display and samples.jsonl.
FRESH_SHOWN = 4


class ReplayActor:
    """The shared replay buffer, logged in a directory: a call that was answered survives a kill.

    key: the idempotency key of a call that may be repeated, which then gets the first answer.
    """

    def __init__(self, config: JobConfig, directory: Path) -> None:
        self._config = config
        self._directory = directory

    def load(self) -> None:
        """An empty buffer, or the one that an actor over the same directory left."""
        from gfn_ray.replay.journal.store import ReplayStore

        config = self._config
        group = config.learner.trajectories_per_query
        self._store = ReplayStore(self._directory, config.replay, config.seed, group=group)

    def clear(self, key: str | None = None) -> None:
        """Forgets every trajectory."""
        self._store.clear(key)

    def add(self, block: bytes, key: str | None = None) -> Record:
        """Stores scored trajectories. shown: a block of a few of them, for people."""
        self._store.add(block, key)
        offered = unpack_trajectories(block)
        return {
            "offered": len(offered),
            "size": len(self._store.buffer),
            "log_reward_mean": float(np.mean([t.final_log_reward for t in offered])),
            "shown": pack_trajectories(offered[:FRESH_SHOWN]),
        }

    def sample(
        self, queries: int, per_query: int, version: int, key: str | None = None
    ) -> tuple[bytes, Record]:
        """A batch, for LearnerActor.step, and where it came from; trajectories = 0 where nothing
        is eligible."""
        batch = self._store.sample(queries, per_query, version, key)
        if batch is None:
            return b"", {"trajectories": 0}
        info = {
            "trajectories": len(batch),
            "slots": batch.slots,
            "generations": batch.generations,
            "stats": self._store.buffer.stats(),
        }
        return pack_trajectories(batch.trajectories), info

    def newest_version(self) -> int:
        return self._store.buffer.newest_version

    def snapshot(self) -> bytes:
        """The whole buffer, for a checkpoint."""
        return self._store.snapshot()

    def update_priorities(
        self, slots: Any, generations: Any, losses: Any, key: str | None = None
    ) -> int:
        return self._store.update_priorities(slots, generations, losses, key)
