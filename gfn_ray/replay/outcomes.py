"""What calls to the replay buffer give back."""

from __future__ import annotations

from dataclasses import dataclass

from gfn_ray.replay.sum_tree import IndexArray
from gfn_ray.trajectory import Trajectory


@dataclass(frozen=True)
class AddReport:
    """What became of the trajectories of one add(): each is either added or a duplicate.

    evicted: entries, of this add or before, that had to make room.
    """

    added: int
    duplicates: int
    evicted: int


@dataclass(frozen=True, eq=False)
class ReplayBatch:
    """Trajectories to learn from; those of one query stand together.

    slots, generations [B]: what update_priorities() wants back with their losses.
    """

    trajectories: list[Trajectory]
    slots: IndexArray
    generations: IndexArray

    def __len__(self) -> int:
        return len(self.trajectories)
