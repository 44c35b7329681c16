"""The controller: hands out work, passes records on by reference, and owns every side effect.

One thread, one wait. All loops below are driven from `Controller.train`, which asks after
each finished call what may start next.

| loop       | waits for                                | is woken by      | bounded by            |
|------------|------------------------------------------|------------------|-----------------------|
| sampler    | rate limiter; lag gate while a version   | an update, a     | one call of groups    |
|            | is due                                   | publication      | per sampler           |
| reward     | sampled groups                           | sampler output   | tokens_per_forward    |
| replay     | nothing (never blocks)                   | add, sample      | capacity, per_query   |
| learner    | min_replay; samples per insert; lag gate | an add to replay | one update at a time  |
| controller | any actor's result, death or timeout     | all              | call_timeout_s a call |
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from gfn_ray.config import JobConfig
from gfn_ray.errors import RunFailed
from gfn_ray.replay.rate_limiter import limiter_for
from gfn_ray.runtime.calls import PendingCalls
from gfn_ray.runtime.fleet import Fleet
from gfn_ray.runtime.lag import LagGate
from gfn_ray.tasks.task import TaskData
from gfn_ray.trajectory import Trajectory

Wire = dict[str, Any]

# First entry of a sampling call's seed: training calls and evaluation never share a stream.
TRAINING_STREAM = 0


# Draws that found nothing eligible, each after a new add, before the run is given up.
EMPTY_DRAWS_LIMIT = 30


@dataclass
class StageMeter:
    """Tokens and busy seconds of one stage, for rates people can read."""

    tokens: float = 0.0
    seconds: float = 0.0

    def add(self, tokens: float, seconds: float) -> None:
        self.tokens += tokens
        self.seconds += seconds

    @property
    def rate(self) -> float:
        """Tokens a busy second."""
        return self.tokens / self.seconds if self.seconds else 0.0


@dataclass(frozen=True)
class StepReport:
    """What the observer of a run learns after each update."""

    step: int
    metrics: dict[str, float]
    fresh: list[Trajectory]


class Controller:
    """Training, from the first published adapter to the last."""

    def __init__(self, config: JobConfig, data: TaskData, fleet: Fleet) -> None:
        self._config = config
        self._fleet = fleet
        self._train_ids = [query.query_id for query in data.train]
        if not self._train_ids:
            raise ValueError("the task gave no training queries")
        self._order = self._query_order()
        self._group = config.sampler.trajectories_per_query
        self._limiter = limiter_for(self._config)
        self._gate = LagGate(config.max_policy_lag)
        self._calls = PendingCalls(config.runtime.call_timeout_s, "runtime.call_timeout_s")
        self._idle_samplers = list(range(config.samplers))
        self._reward_load = [0] * config.reward_actors
        self._learner_busy = False
        self._starved = False
        self._empty_draws = 0
        self._sampling_calls = 0
        self._fresh: list[Trajectory] = []
        self._replay_size = 0
        self._replay_stats: dict[str, float] = {}
        self.step = 0
        self.published_step = 0
        self._last_step = self._pause_at = config.steps
        self.trajectories = 0
        self.adapter: Any = None
        self.meters = {stage: StageMeter() for stage in ("sample", "reward", "learn")}
        self._observe: Callable[[StepReport], None] = lambda _: None

    @property
    def version(self) -> int:
        """Newest version that samplers may use."""
        return self._gate.version

    @property
    def largest_lag(self) -> int:
        """Most versions that any trajectory was behind when it reached replay."""
        return self._gate.largest_seen

    def publish_now(self) -> None:
        """Makes the learner's weights available to samplers and evaluation, between updates.

        The first time, these are version 0, the untrained policy.
        """
        self._publish()
        self._calls.run_all()

    def seed_replay(self, seeds: list[Trajectory]) -> None:
        """Puts known good z into replay, up to its capacity, scored like any other."""
        kept = seeds[: self._config.replay.capacity]
        size = self._config.sampler.queries_per_call * self._group
        for start in range(0, len(kept), size):
            wires = [t.to_wire() for t in kept[start : start + size]]
            self._score(wires, promised=0, version=None)
            self._calls.run_all()

    def train(self, observe: Callable[[StepReport], None], until: int | None = None) -> None:
        """Runs the configured number of updates; `observe` is called after each.

        The learner rests while `observe` runs; samplers go on. until: the update to pause after,
        with nothing left under way; another call goes on from there.
        """
        self._observe = observe
        self._pause_at = self._last_step if until is None else min(until, self._last_step)
        while self.step < self._pause_at or self._gate.publishing:
            self._start_what_may_start()
            self._calls.run_ready()
        if until is None:
            # Groups still under way are of no use; their calls end with the actors.
            self._calls.forget()
        else:
            self._calls.run_all()

    def empty_replay(self) -> None:
        """Forgets every stored trajectory, while training pauses: their log-rewards are void."""
        self._calls.add(self._fleet.replay.clear.remote(), "replay", "be emptied", lambda _: None)
        self._calls.run_all()
        self._limiter = limiter_for(self._config)
        self._replay_size = 0

    def end_here(self) -> None:
        """No further update: for an observer that has seen enough."""
        self._last_step = self._pause_at = self.step

    # Sampling -> reward -> replay

    def _start_what_may_start(self) -> None:
        if not self._learner_busy:
            self._start_update()
        per_call = self._config.sampler.queries_per_call
        while self._idle_samplers and self._gate.may_sample() and self.step < self._pause_at:
            if not self._limiter.may_insert(per_call * self._group):
                return
            self._start_sampling(self._idle_samplers.pop(), per_call)

    def _start_sampling(self, sampler: int, queries: int) -> None:
        ids = [next(self._order) for _ in range(queries)]
        seed = [self._config.seed, TRAINING_STREAM, self._sampling_calls]
        self._sampling_calls += 1
        version, promised = self._gate.version, queries * self._group
        self._limiter.promise(promised)
        self._gate.sampling(version)
        records, info = (
            self._fleet.samplers[sampler]
            .sample.options(num_returns=2)
            .remote(self.adapter, ids, seed, False)
        )

        def sampled(info: Wire) -> None:
            self._idle_samplers.append(sampler)
            self.meters["sample"].add(info["tokens"], info["seconds"])
            self._score(records, promised=promised, version=version)

        self._calls.add(info, f"sampler {sampler}", "sample a group", sampled)

    def _score(self, records: Any, promised: int, version: int | None) -> None:
        reward = int(np.argmin(self._reward_load))
        self._reward_load[reward] += 1
        scored, info = self._fleet.rewards[reward].score.options(num_returns=2).remote(records)

        def on_scored(info: Wire) -> None:
            self._reward_load[reward] -= 1
            self.meters["reward"].add(info["tokens"], info["seconds"])
            self._calls.add(
                self._fleet.replay.add.remote(scored),
                "replay",
                "store a group",
                lambda report: self._stored(scored, report, promised, version),
            )

        self._calls.add(info, f"reward actor {reward}", "score a group", on_scored)

    def _stored(self, scored: Any, report: Wire, promised: int, version: int | None) -> None:
        self._starved = False
        self._replay_size = report["size"]
        self._limiter.arrived(promised=promised, inserted=report["offered"])
        if version is None:  # seeds, which no sampler made
            return
        self.trajectories += report["offered"]
        self._gate.arrived(version)
        self._calls.add(scored, "the object store", "hand over samples", self._remember)

    def _remember(self, wires: list[Wire]) -> None:
        self._fresh = [Trajectory.from_wire(wire) for wire in wires]

    # Replay -> learner -> weights

    def _start_update(self) -> None:
        learner = self._config.learner
        batch = learner.queries_per_step * learner.trajectories_per_query
        following = self.step + 1
        publishes = following % learner.publish_every == 0 or following == self._pause_at
        if self._starved or self.step >= self._pause_at:
            return
        if not (self._limiter.may_sample(batch) and self._gate.may_update(publishes)):
            return
        self._learner_busy = True
        if publishes:
            self._gate.will_publish()  # from here on, samplers would start one version behind
        records, info = self._fleet.replay.sample.options(num_returns=2).remote(
            learner.queries_per_step, learner.trajectories_per_query, self._gate.version
        )

        def drawn(info: Wire) -> None:
            if info["trajectories"] == 0:
                self._nothing_eligible(batch)
                return
            self._empty_draws = 0
            self._limiter.took(info["trajectories"])
            self._replay_stats = info["stats"]
            metrics, losses = self._fleet.learner.step.options(num_returns=2).remote(records)
            if self._config.replay.priority == "loss":
                self._calls.add(
                    self._fleet.replay.update_priorities.remote(
                        info["slots"], info["generations"], losses
                    ),
                    "replay",
                    "update priorities",
                    lambda _: None,
                )
            self._calls.add(
                metrics, "the learner", "apply an update", lambda m: self._updated(m, publishes)
            )

        self._calls.add(info, "replay", "give a batch", drawn)

    def _nothing_eligible(self, batch: int) -> None:
        """Replay had no query with two eligible trajectories: wait for the next add."""
        self._empty_draws += 1
        if self._empty_draws > EMPTY_DRAWS_LIMIT:
            raise RunFailed(
                f"{self._empty_draws} draws from replay in a row found no query with two eligible "
                f"trajectories ({self._replay_size} are stored); raise replay.max_staleness or "
                "replay.max_times_sampled, lower replay.edit_distance, or, where the policy "
                "repeats one z, raise the sampler's exploration"
            )
        # All that is paid for is forgone, so that samplers are asked for something new.
        while self._limiter.may_sample(batch):
            self._limiter.gave_up(batch)
        self._gate.publication_cancelled()
        self._learner_busy, self._starved = False, True

    def _updated(self, metrics: dict[str, float], publishes: bool) -> None:
        self.step += 1
        self.meters["learn"].add(metrics["learn_tokens"], metrics["learn_seconds"])
        report = StepReport(self.step, self._described(metrics), self._fresh)
        if publishes:
            # Reported once its weights are out: a checkpoint of this step holds this step.
            self._publish(lambda: self._finished(report))
        else:
            self._finished(report)

    def _finished(self, report: StepReport) -> None:
        self._learner_busy = False
        started = time.monotonic()
        self._observe(report)
        self._calls.allow(time.monotonic() - started)

    def _described(self, metrics: dict[str, float]) -> dict[str, float]:
        return {
            **metrics,
            **{f"replay_{name}": value for name, value in self._replay_stats.items()},
            "trajectories_sampled": float(self.trajectories),
            "policy_lag_max": float(self.largest_lag),
            **{f"{stage}_tokens_per_s": meter.rate for stage, meter in self.meters.items()},
        }

    def _publish(self, then: Callable[[], None] = lambda: None) -> None:
        self._gate.will_publish()
        adapter, info = self._fleet.learner.publish.options(num_returns=2).remote()

        def published(info: Wire) -> None:
            # The reference is owned here, so the weights outlive the learner's process.
            self.adapter = adapter
            self.published_step = self.step
            self._gate.published(info["version"])
            then()

        self._calls.add(info, "the learner", "publish its weights", published)

    def _query_order(self) -> Iterator[str]:
        """Training queries in endless shuffled passes."""
        rng = np.random.default_rng([self._config.seed, TRAINING_STREAM])
        while True:
            yield from rng.permutation(np.array(self._train_ids, dtype=object)).tolist()
