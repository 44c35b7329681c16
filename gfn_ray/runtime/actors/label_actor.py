"""A reward actor whose reward has labels: p(y | x, z) can be read, tuned and copied."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from gfn_ray.decoding.simulation import Drafted, Simulation
from gfn_ray.rewards.labelled import LabelledReward
from gfn_ray.runtime.actors.reward_actor import RewardActor
from gfn_ray.seeds import Seed
from gfn_ray.storage.serialization import Record
from gfn_ray.storage.trajectories import pack_trajectories
from gfn_ray.trajectory import IntArray, Query

if TYPE_CHECKING:
    from gfn_ray.policy.adapter import Adapter


class LabelRewardActor(RewardActor):
    """A reward actor with access to the label model inside its reward."""

    _reward: LabelledReward

    def score(self, block: bytes, more: Sequence[Query] = ()) -> tuple[bytes, Record]:
        """As RewardActor.score; info also has label_log_probs [N, L] of each whole z."""
        started = time.perf_counter()
        scored, label_log_probs = self._reward.score_and_predict(self._pairs(block, more))
        info = {**self._info(scored, started), "label_log_probs": label_log_probs}
        return pack_trajectories(scored), info

    def simulate(
        self, simulation: Simulation, query_ids: list[str], copies: int, seed: Seed
    ) -> Drafted:
        """As RewardActor.simulate: z is written by the frozen LM, without the label adapter."""
        with self._reward.labels.frozen():
            return super().simulate(simulation, query_ids, copies, seed)

    def label_log_probs(self, histories: list[IntArray], answers: list[IntArray]) -> Any:
        """log p(label | history) [N, L]."""
        return self._reward.labels.log_probs(histories, answers)

    def fit_labels(
        self, histories: list[IntArray], labels: list[int], answers: list[IntArray], lr: float
    ) -> dict[str, float]:
        """Makes one update of the label adapter; returns its metrics."""
        return self._reward.labels.fit(histories, labels, answers, lr)

    def reset_labels(self) -> None:
        """Resets the label adapter to its initial weights."""
        self._reward.labels.reset()

    def label_adapter(self) -> Adapter:
        """Returns a copy of the label adapter."""
        return self._reward.labels.read()

    def label_state(self) -> Record:
        """Returns the state of label adapter and optimizer."""
        return self._reward.labels.state()

    def load_labels(self, state: Record) -> None:
        """Restores what label_state() of any actor returned."""
        self._reward.labels.restore(state)
