"""The actor that scores."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import cached_property
from typing import Any

from gfn_ray.config import JobConfig
from gfn_ray.decoding.decoder import Decoder
from gfn_ray.decoding.simulation import Drafted, Simulation
from gfn_ray.models.merged import BaseAdapter
from gfn_ray.rewards.reward import ExplainsFaults, HasParts, Reward
from gfn_ray.runtime.actors.model_actor import ModelActor, load_model, model_directory
from gfn_ray.sampling.tools import Tool, ToolLoop
from gfn_ray.seeds import Seed
from gfn_ray.storage.serialization import Record
from gfn_ray.storage.trajectories import pack_trajectories, unpack_trajectories
from gfn_ray.support import Support
from gfn_ray.trajectory import Query, Trajectory


class RewardActor(ModelActor):
    """The task's target, and the frozen LM if the target or a decoder needs one."""

    def __init__(
        self,
        config: JobConfig,
        device: str,
        base: BaseAdapter | None,
        support: Support,
        reward: Reward,
        queries: list[Query],
        tool: Tool | None,
    ) -> None:
        self._config = config
        self._device = device
        self._base = base
        self._support = support
        self._reward = reward
        self._queries = {query.query_id: query for query in queries}
        self._tool = tool
        self._model: Any = None

    def load(self) -> None:
        self._start_threads()
        self._reward.load(self._frozen_lm)

    def decode(
        self, decoder: Decoder, query_ids: list[str], samples: int, seed: Seed
    ) -> tuple[bytes, Record]:
        """Decodes `samples` z per query from the frozen LM, unscored."""
        from gfn_ray.decoding.decode import decode

        started = time.perf_counter()
        queries = [self._queries[query_id] for query_id in query_ids]
        found = decode(
            self._frozen_lm(),
            self._support,
            queries,
            decoder,
            samples,
            seed,
            tool=self._tool_loop,
            score=self._reward.score,
            temperature=self._config.reward.temperature_end,
        )
        info = {
            "tokens": sum(len(t) + 1 for t in found.trajectories),
            "seconds": time.perf_counter() - started,
            "chosen": found.tokens,
            "scored": found.scored,
        }
        return pack_trajectories(found.trajectories), info

    @cached_property
    def _tool_loop(self) -> ToolLoop | None:
        """For decoders alone: a run without any does not pay for it."""
        from gfn_ray.models.loading import load_tokenizer

        if self._tool is None:
            return None
        path = model_directory(self._config, self._base)
        tokenizer = load_tokenizer(path, self._config.model.trust_remote_code)
        return ToolLoop(self._tool, tokenizer, self._support)

    def simulate(
        self, simulation: Simulation, query_ids: list[str], copies: int, seed: Seed
    ) -> Drafted:
        """Makes `copies` drafts of each simulated query by the frozen LM."""
        from gfn_ray.decoding.drafting import draft
        from gfn_ray.decoding.frontier import cache_fault

        model = self._frozen_lm()
        if (fault := cache_fault(model, self._support)) is not None:
            return Drafted([None] * len(query_ids), 0, 0, fault)
        queries = [self._queries[query_id] for query_id in query_ids]
        return draft(model, simulation, queries, copies, seed)

    def _frozen_lm(self) -> Any:
        if self._model is None:
            own = self._config.reward
            spread = own.spread if self._device == "cuda" else 1
            self._model = load_model(self._config, self._base, own.precision, self._device, spread)
        return self._model

    def score(self, block: bytes, more: Sequence[Query] = ()) -> tuple[bytes, Record]:
        """Returns the trajectories with untempered log R at every terminable prefix. info["faults"]
        describes those whose log R is not finite, by position; info["parts"] has what the reward
        tells of each beside it. more: simulated queries among them."""
        started = time.perf_counter()
        scored = self._reward.score(self._pairs(block, more))
        return pack_trajectories(scored), self._info(scored, started)

    def _pairs(self, block: bytes, more: Sequence[Query]) -> list[tuple[Query, Trajectory]]:
        """Returns the trajectories of a block, each with its query."""
        known = self._queries | {query.query_id: query for query in more}
        return [(known[t.query_id], t) for t in unpack_trajectories(block)]

    def _info(self, scored: list[Trajectory], started: float) -> Record:
        faults = {index: t.reward_fault for index, t in enumerate(scored)}
        if isinstance(self._reward, ExplainsFaults):
            faults.update(self._reward.faults)
        return {
            "tokens": sum(len(t) for t in scored),
            "seconds": time.perf_counter() - started,
            "faults": {index: fault for index, fault in faults.items() if fault is not None},
            "parts": dict(self._reward.parts) if isinstance(self._reward, HasParts) else {},
        }
