"""The actor that scores."""

from __future__ import annotations

import time
from typing import Any

from gfn_ray.config import JobConfig
from gfn_ray.rewards.reward import Reward
from gfn_ray.runtime.actors.model_actor import (
    ModelActor,
    Wire,
    load_model,
    queries_by_id,
    trajectories_of,
)
from gfn_ray.seeds import Seed
from gfn_ray.support import support_from_wire
from gfn_ray.trajectory import Trajectory


class RewardActor(ModelActor):
    """The task's target, and the frozen LM where that, or a decoder, needs one."""

    def __init__(
        self, config: JobConfig, device: str, support: Wire, reward: Reward, queries: list[Wire]
    ) -> None:
        self._config = config
        self._device = device
        self._support = support_from_wire(support)
        self._reward = reward
        self._queries = queries_by_id(queries)
        self._model: Any = None

    def load(self) -> None:
        self._start_threads()
        self._reward.load(self._frozen_lm)

    def decode(
        self, decoder: Wire, query_ids: list[str], samples: int, seed: Seed
    ) -> tuple[list[Wire], Wire]:
        """What a decoder makes of the frozen LM: `samples` z of each query, unscored."""
        from gfn_ray.decoding.decode import decode
        from gfn_ray.decoding.decoder import Decoder

        started = time.perf_counter()
        queries = [self._queries[query_id] for query_id in query_ids]
        trajectories = decode(
            self._frozen_lm(), self._support, queries, Decoder.from_wire(decoder), samples, seed
        )
        info = {
            "tokens": sum(len(t) + 1 for t in trajectories),
            "seconds": time.perf_counter() - started,
        }
        return [t.to_wire() for t in trajectories], info

    def _frozen_lm(self) -> Any:
        if self._model is None:
            self._model = load_model(self._config, self._config.reward.precision, self._device)
        return self._model

    def score(self, wires: list[Wire]) -> tuple[list[Wire], Wire]:
        """The same trajectories with untempered log R at every terminable prefix. info has the
        faults of those whose log R is not finite, by their place."""
        started = time.perf_counter()
        trajectories = trajectories_of(wires)
        scored = self._reward.score([(self._queries[t.query_id], t) for t in trajectories])
        return [t.to_wire() for t in scored], self._info(scored, started)

    def _info(self, scored: list[Trajectory], started: float) -> Wire:
        faults = {index: t.reward_fault for index, t in enumerate(scored)}
        return {
            "tokens": sum(len(t) for t in scored),
            "seconds": time.perf_counter() - started,
            "faults": {index: fault for index, fault in faults.items() if fault is not None},
        }
