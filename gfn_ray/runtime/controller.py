"""The controller: hands out work, passes records on by reference, and owns every side effect.

One thread, one wait. All loops below are driven from `Controller.train`, which asks after
each finished call what may start next.

| loop       | waits for                                | is woken by      | bounded by            |
|------------|------------------------------------------|------------------|-----------------------|
| sampler    | rate limiter; lag gate while a version   | an update, a     | one call of groups    |
|            | is due; an update that has need of it    | publication      | per sampler           |
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
from gfn_ray.policy.refused import REFUSED
from gfn_ray.replay.columns import from_bytes
from gfn_ray.replay.rate_limiter import limiter_for
from gfn_ray.runtime.bad_batches import BadBatch, BadBatches
from gfn_ray.runtime.engine_check import EngineCheck
from gfn_ray.runtime.fleet import Fleet
from gfn_ray.runtime.lag import LagGate
from gfn_ray.runtime.replay_calls import ReplayCalls
from gfn_ray.runtime.stopwatch import StageMeter
from gfn_ray.seeds import Seed, Stream, generator, seed_of
from gfn_ray.tasks.task import TaskData
from gfn_ray.trajectory import Trajectory

Wire = dict[str, Any]


# Draws that found nothing eligible, each after a new add, before the run is given up.
EMPTY_DRAWS_LIMIT = 30


@dataclass(frozen=True)
class _Group:
    """One sampling call, so that it can be made again; promised: trajectories it will give."""

    adapter: Any
    version: int
    query_ids: list[str]
    seed: Seed
    promised: int


@dataclass(frozen=True)
class StepReport:
    """What the observer of a run learns after each update.

    fresh: a few of the newest trajectories. log_reward: the mean log R of their whole call.
    """

    step: int
    metrics: dict[str, float]
    fresh: list[Trajectory]
    log_reward: float | None


class Controller:
    """Training, from the first published adapter to the last."""

    def __init__(
        self, config: JobConfig, data: TaskData, fleet: Fleet, bad: BadBatches, check: EngineCheck
    ) -> None:
        self._config = config
        self._fleet = fleet
        self._bad = bad
        self._check = check
        self._train_ids = [query.query_id for query in data.train]
        if not self._train_ids:
            raise ValueError("the task gave no training queries")
        self._order = self._query_order()
        self._group = config.sampler.trajectories_per_query
        self._batch = config.learner.queries_per_step * config.learner.trajectories_per_query
        self._limiter = limiter_for(self._config)
        self._gate = LagGate(config.max_policy_lag)
        self._calls = fleet.calls()
        self._replay = ReplayCalls()
        self._idle_samplers = list(range(config.samplers))
        self._to_sample_again: list[_Group] = []
        self._reward_load = [0] * config.reward_actors
        self._learner_busy = self._has_batch = False
        self._starved = False
        self._empty_draws = 0
        self._sampling_calls = 0
        self._fresh: list[Trajectory] = []
        self._log_reward: float | None = None
        self._replay_size = 0
        self._replay_stats: dict[str, float] = {}
        self._queries_drawn = 0
        self._stop_asked = False
        self.settled = False
        self.step = 0
        self.published_step = 0
        self._last_step = self._pause_at = config.steps
        self.trajectories = 0
        self._tool_calls = self._tool_errors = 0  # by samples that arrived, in this process
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
            self._score(wires, None)
            self._calls.run_all()

    def train(self, observe: Callable[[StepReport], None], until: int | None = None) -> None:
        """Runs the configured number of updates; `observe` is called after each.

        The learner rests while `observe` runs; samplers go on. until: the update to pause after;
        another call goes on from there. Leaves nothing under way.
        """
        self._observe = observe
        self._pause_at = self._last_step if until is None else min(until, self._last_step)
        while self.step < self._pause_at or self._gate.publishing:
            self.stop_if_asked()
            self._start_what_may_start()
            self._calls.run_ready()
        self._calls.run_all()

    def ask_to_stop(self) -> bool:
        """Has `train` end, by KeyboardInterrupt, once all that is under way is done. False where
        that was asked for before."""
        asked, self._stop_asked = self._stop_asked, True
        return not asked

    def state(self) -> Wire:
        """All that later updates depend on, while nothing is under way; else what will be lost
        with the process is left out."""
        return {
            "step": self.step,
            "trajectories": self.trajectories,
            "sampling_calls": self._sampling_calls,
            "queries_drawn": self._queries_drawn,
            "largest_lag": self._gate.largest_seen,
            "replay_size": self._replay_size,
            "limiter": self._limiter.state(),
        }

    def restore(self, state: Wire) -> None:
        """Become the controller that state() described; weights are published next."""
        self.step = state["step"]
        self.trajectories = state["trajectories"]
        self._sampling_calls = state["sampling_calls"]
        while self._queries_drawn < state["queries_drawn"]:
            self._next_query()
        self._gate.largest_seen = state["largest_lag"]
        self._replay_size = state["replay_size"]
        self._limiter.restore(state["limiter"])

    def empty_replay(self) -> None:
        """Forgets every stored trajectory, while training pauses: their log-rewards are void."""
        self._fleet.ask(self._fleet.replay, "be emptied", self._replay.clear())
        self._limiter = limiter_for(self._config)
        self._replay_size = 0
        # What the old limiter was promised, the new one does not wait for.
        for group in self._to_sample_again:
            self._gate.gave_up(group.version)
        self._to_sample_again.clear()

    def stop_if_asked(self) -> None:
        """Raises KeyboardInterrupt where that was asked for, with nothing left under way and all
        that was learned published."""
        if not self._stop_asked:
            return
        self._calls.run_all()
        if self.published_step != self.step:
            self.publish_now()
        self.settled = True
        raise KeyboardInterrupt

    def end_here(self) -> None:
        """No further update: for an observer that has seen enough."""
        self._last_step = self._pause_at = self.step

    # Sampling -> reward -> replay

    def _start_what_may_start(self) -> None:
        if not self._learner_busy:
            self._start_update()
        while self._to_sample_again and self._idle_samplers:
            self._sample(self._idle_samplers.pop(), self._to_sample_again.pop())
        per_call = self._config.sampler.queries_per_call
        while self._idle_samplers and self._may_sample(per_call * self._group):
            self._sample(self._idle_samplers.pop(), self._next_group(per_call))

    def _may_sample(self, n: int) -> bool:
        updates = self._pause_at - self.step - self._has_batch  # that have yet to draw theirs
        if updates <= 0 or self._limiter.pays_for(updates, self._batch):
            return False
        return self._gate.may_sample() and self._limiter.may_insert(n)

    def _next_group(self, queries: int) -> _Group:
        group = _Group(
            self.adapter,
            self._gate.version,
            [self._next_query() for _ in range(queries)],
            seed_of(Stream.TRAINING_CALL, self._config.seed, self._sampling_calls),
            promised=queries * self._group,
        )
        self._sampling_calls += 1
        self._limiter.promise(group.promised)
        self._gate.sampling(group.version)
        return group

    def _next_query(self) -> str:
        self._queries_drawn += 1
        return next(self._order)

    def _sample(self, sampler: int, group: _Group) -> None:
        def sampled(records: Any, info: Wire) -> None:
            self._idle_samplers.append(sampler)
            self.meters["sample"].add(info["tokens"], info["seconds"])
            self._tool_calls += info["tool_calls"]
            self._tool_errors += info["tool_errors"]
            self._score(records, group)

        def adapter_lost() -> None:
            self._idle_samplers.append(sampler)
            self._limiter.lost(group.promised)
            self._gate.gave_up(group.version)
            if group.adapter is self.adapter and not self._gate.publishing:
                self._publish()

        self._calls.add(
            self._fleet.samplers[sampler],
            "sample a group",
            lambda actor: actor.sample.options(num_returns=2).remote(
                group.adapter, group.query_ids, group.seed, False
            ),
            sampled,
            lost=adapter_lost,
        )

    def _score(self, records: Any, group: _Group | None) -> None:
        """group: None for seeds, which no sampler made."""
        reward = int(np.argmin(self._reward_load))
        self._reward_load[reward] += 1

        def scored(wires: Any, info: Wire) -> None:
            self._reward_load[reward] -= 1
            self.meters["reward"].add(info["tokens"], info["seconds"])
            if not info["faults"]:
                self._bad.usable("group")
                self._store(wires, group)
                return
            self._calls.fetch(
                wires,
                "hand over a bad group",
                lambda found: self._store_rest(self._bad.sift(found, info["faults"]), group),
                lost=lambda: self._sample_again(group),
            )

        def records_lost() -> None:
            self._reward_load[reward] -= 1
            self._sample_again(group)

        self._calls.add(
            self._fleet.rewards[reward],
            "score a group",
            lambda actor: actor.score.options(num_returns=2).remote(records),
            scored,
            lost=records_lost,
        )

    def _store(self, wires: Any, group: _Group | None) -> None:
        self._calls.add(
            self._fleet.replay,
            "store a group",
            self._replay.add(wires),
            lambda report: self._stored(wires, report, group),
            lost=lambda: self._sample_again(group),
        )

    def _store_rest(self, usable: list[Wire], group: _Group | None) -> None:
        """What is left of a sampling call once its bad groups are dropped."""
        if usable:
            self._store(self._fleet.put(usable), group)
        elif group is not None:
            self._limiter.lost(group.promised)
            self._gate.gave_up(group.version)

    def _sample_again(self, group: _Group | None) -> None:
        """What a sampler or a reward actor made of a group was lost on its way."""
        if group is None:
            raise RunFailed("seeds of replay were lost from Ray's object store; start again")
        self._to_sample_again.append(group)

    def _stored(self, scored: Any, report: Wire, group: _Group | None) -> None:
        self._starved = False
        self._replay_size = report["size"]
        promised = 0 if group is None else group.promised
        self._limiter.arrived(promised=promised, inserted=report["offered"])
        if group is None:
            return
        self.trajectories += report["offered"]
        self._gate.arrived(group.version)
        self._fresh = [Trajectory.from_wire(wire) for wire in report["shown"]]
        self._log_reward = report["log_reward_mean"]
        self._check.arrived(group.version, group.adapter, scored, self._fleet, self._calls)

    # Replay -> learner -> weights

    def _start_update(self) -> None:
        learner = self._config.learner
        following = self.step + 1
        publishes = (
            following % learner.publish_every == 0
            or following % self._config.checkpoint.every == 0  # a checkpoint holds what it names
            or following == self._pause_at
        )
        if self._starved or self.step >= self._pause_at:
            return
        if not (self._limiter.may_sample(self._batch) and self._gate.may_update(publishes)):
            return
        self._learner_busy = True
        if publishes:
            self._gate.will_publish()  # from here on, samplers would start one version behind
        version = self._gate.version

        def drawn(records: Any, info: Wire) -> None:
            if info["trajectories"] == 0:
                self._nothing_eligible()
                return
            self._has_batch = True
            self._empty_draws = 0
            self._limiter.took(info["trajectories"])
            self._replay_stats = info["stats"]
            self._learn(records, info, publishes)

        self._calls.add(
            self._fleet.replay,
            "give a batch",
            self._replay.sample(learner.queries_per_step, learner.trajectories_per_query, version),
            drawn,
        )

    def _learn(self, records: Any, drawn: Wire, publishes: bool) -> None:
        def learned(losses: Any, metrics: Wire) -> None:
            if REFUSED in metrics:
                self._refused(records, metrics)
                return
            self._bad.usable("update")
            if self._config.replay.priority == "loss":
                self._calls.add(
                    self._fleet.replay,
                    "update priorities",
                    self._replay.update_priorities(drawn["slots"], drawn["generations"], losses),
                    lambda _: None,
                    lost=lambda: None,
                )
            self._updated(metrics, publishes)

        self._calls.add(
            self._fleet.learner,
            "apply an update",
            lambda actor: actor.step.options(num_returns=2).remote(records),
            learned,
            lost=self._no_update,
            changes_state=lambda metrics: REFUSED not in metrics,
        )

    def _refused(self, records: Any, answer: Wire) -> None:
        """The learner would not apply this batch, and is as it was before."""

        def dropped(found: list[Trajectory], known: dict[str, Any]) -> None:
            self._bad.dropped(BadBatch("update", answer[REFUSED], found, known))
            self._no_update()

        self._calls.fetch(
            records,
            "hand over a bad batch",
            lambda batch: dropped(from_bytes(batch), answer["known"]),
            lost=lambda: dropped([], {}),
        )

    def _no_update(self) -> None:
        """The update under way does not take place."""
        self._gate.publication_cancelled()
        self._learner_busy = self._has_batch = False

    def _nothing_eligible(self) -> None:
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
        while self._limiter.may_sample(self._batch):
            self._limiter.gave_up(self._batch)
        self._no_update()
        self._starved = True

    def _updated(self, metrics: Wire, publishes: bool) -> None:
        self.step += 1
        self._has_batch = False
        self.meters["learn"].add(metrics["learn_tokens"], metrics["learn_seconds"])
        report = StepReport(self.step, self._described(metrics), self._fresh, self._log_reward)
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

    def _described(self, metrics: Wire) -> dict[str, float]:
        tools = {"tool_calls": self._tool_calls, "tool_errors": self._tool_errors}
        return {
            **metrics,
            **{name: float(count) for name, count in tools.items() if self._tool_calls},
            **{f"replay_{name}": value for name, value in self._replay_stats.items()},
            "trajectories_sampled": float(self.trajectories),
            "policy_lag_max": float(self.largest_lag),
            **{f"{stage}_tokens_per_s": meter.rate for stage, meter in self.meters.items()},
        }

    def _publish(self, then: Callable[[], None] = lambda: None) -> None:
        self._gate.will_publish()

        def published(adapter: Any, info: Wire) -> None:
            # The reference is owned here, so the weights outlive the learner's process.
            self.adapter = adapter
            self.published_step = self.step
            self._gate.published(info["version"])
            then()

        self._calls.add(
            self._fleet.learner,
            "publish its weights",
            lambda actor: actor.publish.options(num_returns=2).remote(),
            published,
            changes_state=True,
        )

    def _query_order(self) -> Iterator[str]:
        """Training queries in endless shuffled passes."""
        rng = generator(seed_of(Stream.QUERY_ORDER, self._config.seed))
        while True:
            yield from rng.permutation(np.array(self._train_ids, dtype=object)).tolist()
