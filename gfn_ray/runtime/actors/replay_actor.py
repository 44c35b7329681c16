"""The actor that keeps trajectories."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from gfn_ray.config import JobConfig
from gfn_ray.storage.serialization import Record
from gfn_ray.storage.trajectories import pack_trajectories, unpack_trajectories

# Trajectories per call that are returned to the controller, for display and samples.jsonl.
FRESH_SHOWN = 4


class ReplayActor:
    """The shared replay buffer, logged in a directory: an answered call survives a kill.

    key: an idempotency key; a repeated call with the same key gets the first answer.
    """

    def __init__(self, config: JobConfig, directory: Path) -> None:
        self._config = config
        self._directory = directory

    def load(self) -> None:
        """Opens the buffer that an earlier actor left in the directory, or an empty one."""
        from gfn_ray.replay.journal.store import ReplayStore

        config = self._config
        group = config.learner.trajectories_per_query
        self._store = ReplayStore(self._directory, config.replay, config.seed, group=group)

    def clear(self, key: str | None = None) -> None:
        """Drops every trajectory."""
        self._store.clear(key)

    def add(self, block: bytes, key: str | None = None) -> Record:
        """Stores scored trajectories. Returns counts and `shown`, a block with a few of them."""
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
        """Returns a batch for LearnerActor.step and its slots; trajectories = 0 if none is
        eligible."""
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
        """Returns the whole buffer, for a checkpoint."""
        return self._store.snapshot()

    def update_priorities(
        self, slots: Any, generations: Any, losses: Any, key: str | None = None
    ) -> int:
        return self._store.update_priorities(slots, generations, losses, key)
