"""The controller: schedules work, passes data between actors by reference, owns all side effects.

Two coroutines follow a trajectory through the system. `Collector._collect` takes one sampling call
from the engine to replay; `Controller._update` takes one batch from replay to the learner, which
answers with the weights to hand out. `train` starts each when `Pacing` allows it and waits for all.

| work      | starts when                                              | limit                  |
|-----------|----------------------------------------------------------|------------------------|
| _collect  | a sampler has room, more inserts are needed and          | two calls per sampler, |
|           | staleness stays within its bound; or results were lost   | one if synchronous     |
| scoring   | the samples have arrived                                 | promised inserts       |
| _update   | the previous update is done, inserts pay for it, and its | one at a time          |
|           | version would not make samples in flight too stale       |                        |
| any call  | it is made                                               | runtime.call_timeout_s |
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from gfn_ray.config import JobConfig
from gfn_ray.learners.learner import SkippedUpdate
from gfn_ray.runs.nonfinite_batches import NonFiniteBatch, NonFiniteBatches
from gfn_ray.runs.stopwatch import StageMeter
from gfn_ray.runtime.actors.replay_calls import ReplayCalls
from gfn_ray.runtime.actors.worker_group import WorkerGroup
from gfn_ray.runtime.supervision.failures import DataLost
from gfn_ray.runtime.training.collector import Collector
from gfn_ray.runtime.training.engine_check import EngineCheck
from gfn_ray.runtime.training.pacing import Pacing
from gfn_ray.runtime.training.publisher import Publisher
from gfn_ray.storage.serialization import Record
from gfn_ray.storage.trajectories import unpack_trajectories
from gfn_ray.tasks.task import TaskData
from gfn_ray.trajectory import Trajectory


@dataclass(frozen=True)
class StepReport:
    """What an observer is told after each update.

    fresh: a few of the newest trajectories. log_reward: mean log R of the call they came from.
    """

    step: int
    metrics: dict[str, float]
    fresh: list[Trajectory]
    log_reward: float | None


class Controller:
    """Training, from the first published adapter to the last."""

    def __init__(
        self,
        config: JobConfig,
        data: TaskData,
        workers: WorkerGroup,
        bad: NonFiniteBatches,
        check: EngineCheck,
    ) -> None:
        self._config = config
        self._workers = workers
        self._bad = bad
        self._pacing = pacing = Pacing(config)
        self._calls = workers.calls()
        self._replay = ReplayCalls()
        self._publisher = Publisher(workers, self._calls, pacing)
        self._collector = Collector(
            config, data, workers, self._calls, pacing, self._publisher, self._replay, bad, check
        )
        self._replay_stats: dict[str, float] = {}
        self._stop_asked = False
        self.settled = False
        self.meters = {**self._collector.meters, "learn": StageMeter()}
        self._observe: Callable[[StepReport], None] = lambda _: None

    @property
    def step(self) -> int:
        """Number of updates applied."""
        return self._pacing.step

    @property
    def version(self) -> int:
        """Newest version that samplers may use."""
        return self._pacing.version

    @property
    def largest_staleness(self) -> int:
        """Largest staleness, in versions, of any trajectory when it reached replay."""
        return self._pacing.largest_staleness

    @property
    def published_step(self) -> int:
        """The update after which it was published."""
        return self._publisher.step

    @property
    def trajectories(self) -> int:
        """Number of trajectories that have reached replay."""
        return self._collector.trajectories

    def publish_now(self) -> None:
        """Publishes the learner's weights to samplers and evaluation, between updates.

        The first call publishes version 0, the untrained policy.
        """
        self._calls.start(self._publisher.publish())
        self._calls.run_all()

    def seed_replay(self, seeds: list[Trajectory]) -> None:
        """Scores demonstrations and puts them into replay, up to its capacity."""
        self._collector.seed_replay(seeds)

    def train(self, observe: Callable[[StepReport], None], until: int | None = None) -> None:
        """Runs the configured number of updates and calls `observe` after each.

        The learner idles while `observe` runs; samplers continue. until: the update to pause
        after; the next call continues from there. No call is in flight on return.
        """
        self._observe = observe
        self._pacing.go_on(until)
        while not self._pacing.pauses:
            self.stop_if_asked()
            if self._pacing.may_update():
                self._calls.start(self._update())
            self._collector.start_what_may_start()
            self._calls.run_ready()
        self._calls.run_all()

    def ask_to_stop(self) -> bool:
        """Makes `train` raise KeyboardInterrupt once every call in flight is done. Returns False
        if this was already requested."""
        asked, self._stop_asked = self._stop_asked, True
        return not asked

    def state(self) -> Record:
        """Everything later updates depend on. Calls in flight are left out: they end with the
        process."""
        return {**self._pacing.state(), **self._collector.state()}

    def restore(self, state: Record) -> None:
        """Restores what state() returned; the caller publishes weights next."""
        self._pacing.restore(state)
        self._collector.restore(state)

    def empty_replay(self) -> None:
        """Drops every stored trajectory while training is paused: their log-rewards are void."""
        self._collector.empty_replay()

    def stop_if_asked(self) -> None:
        """Raises KeyboardInterrupt if a stop was requested, after finishing the calls in flight
        and publishing the newest weights."""
        if not self._stop_asked:
            return
        self._calls.run_all()
        if self.published_step != self.step:
            self.publish_now()
        self.settled = True
        raise KeyboardInterrupt

    def end_here(self) -> None:
        """Ends training after the current update; for observers."""
        self._pacing.end_here()

    async def _update(self) -> None:
        """Runs one update, unless replay has no batch or the learner skips it."""
        learner = self._config.learner
        publishes = self._pacing.updating()
        draw = self._replay.sample(
            learner.queries_per_step, learner.trajectories_per_query, self.version
        )
        block, drawn = await self._calls.make(self._workers.replay, "give a batch", draw)
        if drawn["trajectories"] == 0:
            self._pacing.found_nothing(self._collector.stored)
            return
        self._pacing.drew(drawn["trajectories"])
        self._replay_stats = drawn["stats"]
        try:
            adapter, losses, update = await self._calls.make(
                self._workers.learner,
                "apply an update",
                lambda actor: actor.step.options(num_returns=3).remote(block, publishes),
                changes_state=lambda update: not isinstance(update, SkippedUpdate),
            )
        except DataLost:
            self._pacing.cancelled()
            return
        if isinstance(update, SkippedUpdate):
            await self._drop(block, update)
            self._pacing.cancelled()
            return
        self._bad.usable("update")
        if self._config.replay.priority == "loss":
            self._calls.start(self._update_priorities(drawn, losses))
        self._pacing.updated()
        if update.version is not None:
            self._publisher.took(adapter, update.version)
        self.meters["learn"].add(update.metrics["learn_tokens"], update.metrics["learn_seconds"])
        collected = self._collector
        described = self._described(update.metrics)
        report = StepReport(self.step, described, collected.newest, collected.log_reward)
        self._pacing.finished()
        started = time.monotonic()
        self._observe(report)
        self._calls.allow(time.monotonic() - started)

    async def _drop(self, block: Any, skipped: SkippedUpdate) -> None:
        """Records a batch that the learner skipped; its state is unchanged."""
        try:
            found = unpack_trajectories(
                await self._calls.fetch(block, "hand over a non-finite batch")
            )
            known = skipped.known
        except DataLost:
            found, known = [], {}
        self._bad.dropped(NonFiniteBatch("update", skipped.reason, found, known))

    async def _update_priorities(self, drawn: Record, losses: Any) -> None:
        told = self._replay.update_priorities(drawn["slots"], drawn["generations"], losses)
        try:
            await self._calls.make(self._workers.replay, "update priorities", told)
        except DataLost:  # the losses are gone; replay keeps its old priorities
            return

    def _described(self, metrics: Record) -> dict[str, float]:
        return {
            **metrics,
            **self._collector.described(),
            **{f"replay_{name}": value for name, value in self._replay_stats.items()},
            "staleness_max": float(self.largest_staleness),
            **{f"{stage}_tokens_per_s": meter.rate for stage, meter in self.meters.items()},
        }
