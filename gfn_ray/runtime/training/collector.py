"""From the samplers to replay: sampling calls, their rewards, and retries of lost results.

Owns the query order, the assignment of calls to samplers and reward actors, and statistics of the
newest trajectories. `Pacing` decides when a call may be made.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from gfn_ray.config import JobConfig
from gfn_ray.errors import RunFailed
from gfn_ray.runs.nonfinite_batches import NonFiniteBatches
from gfn_ray.runs.stopwatch import StageMeter
from gfn_ray.runtime.actors.replay_calls import ReplayCalls
from gfn_ray.runtime.actors.worker_group import WorkerGroup
from gfn_ray.runtime.supervision.calls import PendingCalls
from gfn_ray.runtime.supervision.failures import DataLost
from gfn_ray.runtime.training.engine_check import EngineCheck
from gfn_ray.runtime.training.least_busy import LeastBusy, samplers
from gfn_ray.runtime.training.pacing import Pacing
from gfn_ray.runtime.training.publisher import Publisher
from gfn_ray.seeds import Seed, Stream, generator, seed_of
from gfn_ray.storage.serialization import Record
from gfn_ray.storage.trajectories import pack_trajectories, unpack_trajectories
from gfn_ray.tasks.task import TaskData
from gfn_ray.trajectory import Trajectory


@dataclass(frozen=True)
class _SamplingCall:
    """The arguments of a call, kept so that it can be repeated. adapter: an object reference."""

    adapter: Any
    version: int
    query_ids: list[str]
    seed: Seed


class Collector:
    """trajectories: number that reached replay. newest: a few of the latest. log_reward: mean log R
    of the call they came from. stored: trajectories now in replay."""

    def __init__(
        self,
        config: JobConfig,
        data: TaskData,
        workers: WorkerGroup,
        calls: PendingCalls,
        pacing: Pacing,
        publisher: Publisher,
        replay: ReplayCalls,
        bad: NonFiniteBatches,
        check: EngineCheck,
    ) -> None:
        self._config = config
        self._workers = workers
        self._calls = calls
        self._pacing = pacing
        self._publisher = publisher
        self._replay = replay
        self._bad = bad
        self._check = check
        self._train_ids = [query.query_id for query in data.train]
        if not self._train_ids:
            raise ValueError("the task gave no training queries")
        self._order = self._query_order()
        self._samplers = samplers(config.samplers, config.max_staleness)
        self._rewards = LeastBusy(config.reward_actors)
        self._to_sample_again: list[_SamplingCall] = []
        self._sampling_calls = self._queries_drawn = 0
        self._tool_calls = self._tool_errors = 0  # in samples received by this process
        self._rows = 0.0  # z that an engine's step wrote at once, on average over the latest call
        self.trajectories = self.stored = 0
        self.newest: list[Trajectory] = []
        self.log_reward: float | None = None
        self.meters = {stage: StageMeter() for stage in ("sample", "reward")}

    def start_what_may_start(self) -> None:
        """Starts sampling calls on the least busy samplers, as far as `Pacing` allows; lost ones
        first."""
        while self._to_sample_again or self._pacing.may_sample():
            sampler = self._samplers.take()
            if sampler is None:
                return
            again = self._to_sample_again.pop() if self._to_sample_again else None
            self._calls.start(self._collect(sampler, again or self._next_call()))

    def seed_replay(self, seeds: list[Trajectory]) -> None:
        """Scores demonstrations and puts them into replay, up to its capacity."""
        kept = seeds[: self._config.replay.capacity]
        sampler = self._config.sampler
        size = sampler.queries_per_call * sampler.trajectories_per_query
        for start in range(0, len(kept), size):
            self._calls.start(self._store_seeds(kept[start : start + size]))
            self._calls.run_all()

    def empty_replay(self) -> None:
        """Drops every stored trajectory; no call may be in flight."""
        self._workers.ask(self._workers.replay, "be emptied", self._replay.clear())
        self.stored = 0
        for call in self._to_sample_again:
            self._pacing.gave_up(call.version)
        self._to_sample_again.clear()
        self._pacing.start_anew()

    def state(self) -> Record:
        """The state kept in a checkpoint."""
        return {
            "trajectories": self.trajectories,
            "sampling_calls": self._sampling_calls,
            "queries_drawn": self._queries_drawn,
            "replay_size": self.stored,
        }

    def restore(self, state: Record) -> None:
        self.trajectories = state["trajectories"]
        self._sampling_calls = state["sampling_calls"]
        while self._queries_drawn < state["queries_drawn"]:
            self._next_query()
        self.stored = state["replay_size"]

    def described(self) -> dict[str, float]:
        """Metrics to add to those of an update."""
        tools = {"tool_calls": self._tool_calls, "tool_errors": self._tool_errors}
        return {
            **{name: float(count) for name, count in tools.items() if self._tool_calls},
            "sampler_rows": self._rows,
            "trajectories_sampled": float(self.trajectories),
        }

    async def _collect(self, sampler: int, call: _SamplingCall) -> None:
        """Runs one sampling call through scoring to replay; lost results are sampled again."""
        try:
            block, info = await self._calls.make(
                self._workers.samplers[sampler],
                "sample a group",
                lambda actor: actor.sample.options(num_returns=2).remote(
                    call.adapter, call.query_ids, call.seed, False
                ),
            )
        except DataLost:  # the adapter is gone
            self._pacing.gave_up(call.version)
            await self._publisher.lost(call.adapter)
            return
        finally:
            self._samplers.done(sampler)
        self.meters["sample"].add(info["tokens"], info["seconds"])
        self._rows = info["tokens"] / info["steps"]
        self._tool_calls += info["tool_calls"]
        self._tool_errors += info["tool_errors"]
        try:
            stored = await self._score_and_store(block)
        except DataLost:
            self._to_sample_again.append(call)
            return
        if stored is None:
            self._pacing.gave_up(call.version)
            return
        scored, report = stored
        self._pacing.stored(call.version, report["offered"])
        self.trajectories += report["offered"]
        self.newest = unpack_trajectories(report["shown"])
        self.log_reward = report["log_reward_mean"]
        await self._check.arrived(call.version, call.adapter, scored, self._workers, self._calls)

    async def _score_and_store(self, block: Any) -> tuple[Any, Record] | None:
        """Returns the reference of the block stored in replay, and replay's report. None if every
        group was dropped as non-finite. Raises DataLost."""
        reward = self._rewards.take()
        assert reward is not None, "a reward actor takes any number of calls"
        try:
            scored, info = await self._calls.make(
                self._workers.rewards[reward],
                "score a group",
                lambda actor: actor.score.options(num_returns=2).remote(block),
            )
        finally:
            self._rewards.done(reward)
        self.meters["reward"].add(info["tokens"], info["seconds"])
        if not info["faults"]:
            self._bad.usable("group")
        else:
            found = unpack_trajectories(await self._calls.fetch(scored, "hand over a group"))
            usable = self._bad.sift(found, info["faults"])
            if not usable:
                return None
            scored = self._workers.put(pack_trajectories(usable))
        add = self._replay.add(scored)
        report = await self._calls.make(self._workers.replay, "store a group", add)
        self.stored = report["size"]
        return scored, report

    async def _store_seeds(self, seeds: list[Trajectory]) -> None:
        try:
            stored = await self._score_and_store(pack_trajectories(seeds))
        except DataLost as loss:
            raise RunFailed(
                "demonstrations for replay were lost from Ray's object store; start again"
            ) from loss
        if stored is not None:
            self._pacing.stored_unasked(stored[1]["offered"])

    def _next_call(self) -> _SamplingCall:
        call = _SamplingCall(
            self._publisher.adapter,
            self._pacing.sampling(),
            [self._next_query() for _ in range(self._config.sampler.queries_per_call)],
            seed_of(Stream.TRAINING_CALL, self._config.seed, self._sampling_calls),
        )
        self._sampling_calls += 1
        return call

    def _next_query(self) -> str:
        self._queries_drawn += 1
        return next(self._order)

    def _query_order(self) -> Iterator[str]:
        """Training queries in endless shuffled passes."""
        rng = generator(seed_of(Stream.QUERY_ORDER, self._config.seed))
        while True:
            yield from rng.permutation(np.array(self._train_ids, dtype=object)).tolist()
