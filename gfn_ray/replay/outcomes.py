"""Return values of the replay buffer."""

from __future__ import annotations

from dataclasses import dataclass

from gfn_ray.replay.sum_tree import IndexArray
from gfn_ray.trajectory import Trajectory


@dataclass(frozen=True)
class AddReport:
    """The outcome of one add(): each trajectory is either added or a duplicate.

    evicted: entries, of this add or earlier ones, evicted to make room.
    """

    added: int
    duplicates: int
    evicted: int


@dataclass(frozen=True, eq=False)
class ReplayBatch:
    """Trajectories to learn from, grouped by query.

    slots, generations [B]: to pass to update_priorities() with the losses.
    """

    trajectories: list[Trajectory]
    slots: IndexArray
    generations: IndexArray

    def __len__(self) -> int:
        return len(self.trajectories)
