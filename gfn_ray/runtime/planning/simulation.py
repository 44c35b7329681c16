"""A run in simulated time: the pacing of real ones, with assumed durations.

A discrete-event simulation. `Pacing` and `LeastBusy` decide what starts, as they do in a run;
`durations` says how much work each call is, and `processors` how fast that is done.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Protocol

from gfn_ray.config import JobConfig
from gfn_ray.errors import RunFailed
from gfn_ray.runtime.planning.processors import Processor
from gfn_ray.runtime.training.least_busy import LeastBusy, samplers
from gfn_ray.runtime.training.pacing import Pacing

Done = Callable[[], None]
Seconds = Callable[[bool], float]
"""Of a call; asked, when it begins, whether it is its actor's first."""


class Durations(Protocol):
    """Seconds of work of the next call of each kind, at the full speed of one processor. first:
    whether it is its actor's first, with code and memory that are new. step: updates made before
    its samples were asked for, or before it."""

    def sample(self, first: bool, step: int) -> float: ...
    def score(self, first: bool, step: int) -> float: ...
    def learn(self, first: bool, step: int) -> float: ...

    def checks(self) -> Sequence[float]:
        """Of the learner, once for each of the first new versions that samples arrive from."""
        ...

    def checkpoint(self) -> float:
        """Of no processor, as the next two: between updates, until a checkpoint is written."""
        ...

    def evaluation(self) -> float:
        """Between updates, until the policy is evaluated."""
        ...

    def between(self) -> float:
        """From the end of one call until the next has begun."""
        ...


@dataclass(frozen=True)
class Simulated:
    """seconds: of training, from the first call to the last answer. busy: share of them in which
    an actor of a kind had a call. staleness: the largest of any trajectory at replay, in versions.
    trajectories: that reached replay."""

    seconds: float
    updates: int
    busy: dict[str, float]
    staleness: int
    trajectories: int


@dataclass
class _Clock:
    """Simulated seconds, and what happens when."""

    now: float = 0.0
    _due: list[tuple[float, int, Done]] = field(default_factory=list)
    _number: count[int] = field(default_factory=count)

    def after(self, seconds: float, then: Done) -> None:
        heapq.heappush(self._due, (self.now + seconds, next(self._number), then))

    def advance(self) -> bool:
        """Goes to the next event and lets it happen; False if there is none."""
        if not self._due:
            return False
        self.now, _, then = heapq.heappop(self._due)
        then()
        return True


class Simulation:
    """processors: of each sampler, reward actor and the learner, in that order; actors that share
    one have the same."""

    def __init__(
        self, config: JobConfig, durations: Durations, processors: list[Processor], seeded: int = 0
    ) -> None:
        self._config = config
        self._durations = durations
        self._clock = _Clock()
        self._pacing = Pacing(config)
        self._samplers = samplers(config.samplers, config.max_staleness)
        self._rewards = LeastBusy(config.reward_actors)
        self._group = config.sampler.queries_per_call * config.sampler.trajectories_per_query
        self._batch = config.learner.queries_per_step * config.learner.trajectories_per_query
        split = config.samplers, config.samplers + config.reward_actors
        self._actors = {
            "sampler": [_Actor(self._clock, one) for one in processors[: split[0]]],
            "reward actor": [_Actor(self._clock, one) for one in processors[split[0] : split[1]]],
            "learner": [_Actor(self._clock, processors[split[1]])],
        }
        self._trajectories = 0
        self._checks, self._checked = list(durations.checks()), 0
        if seeded:
            self._pacing.stored_unasked(seeded)

    def run(self) -> Simulated:
        """Simulates every update of the run."""
        self._pacing.will_publish()
        self._pacing.published(0)
        self._pacing.go_on(None)
        while not self._pacing.pauses:
            self._start_what_may_start()
            if not self._clock.advance():
                raise RunFailed("the simulated run waits for itself; please report your settings")
        while self._clock.advance():  # calls in flight at the end
            pass
        seconds = self._clock.now
        busy = {
            kind: sum(one.busy for one in actors) / (len(actors) * seconds)
            for kind, actors in self._actors.items()
        }
        return Simulated(
            seconds, self._pacing.step, busy, self._pacing.largest_staleness, self._trajectories
        )

    def _start_what_may_start(self) -> None:
        if self._pacing.may_update():
            publishes = self._pacing.updating()
            self._later(lambda: self._update(publishes))
        while self._pacing.may_sample():
            sampler = self._samplers.take()
            if sampler is None:
                return
            self._sample(sampler, self._pacing.sampling())

    def _sample(self, sampler: int, version: int) -> None:
        step = self._pacing.step

        def sampled() -> None:
            self._samplers.done(sampler)
            reward = self._rewards.take()
            assert reward is not None
            self._actors["reward actor"][reward].work(
                lambda first: self._durations.score(first, step),
                lambda: self._later(lambda: self._scored(reward, version)),
            )

        self._actors["sampler"][sampler].work(
            lambda first: self._durations.sample(first, step), lambda: self._later(sampled)
        )

    def _scored(self, reward: int, version: int) -> None:
        self._rewards.done(reward)
        self._pacing.stored(version, self._group)
        self._trajectories += self._group
        if version > self._checked and self._checks:
            self._checked, seconds = version, self._checks.pop(0)
            self._learner.work(lambda _: seconds, lambda: None)

    def _update(self, publishes: bool) -> None:
        self._pacing.drew(self._batch)

        def updated() -> None:
            self._pacing.updated()
            if publishes:
                self._pacing.published(self._pacing.version + 1)
            self._clock.after(self._pause(), self._pacing.finished)

        step = self._pacing.step
        self._learner.work(
            lambda first: self._durations.learn(first, step), lambda: self._later(updated)
        )

    @property
    def _learner(self) -> _Actor:
        return self._actors["learner"][0]

    def _pause(self) -> float:
        """Seconds that training waits after an update."""
        step, seconds = self._pacing.step, 0.0
        if step % self._config.checkpoint.every == 0:
            seconds += self._durations.checkpoint()
        every = self._config.eval.every
        if every and step % every == 0 and step < self._config.steps:
            seconds += self._durations.evaluation()
        return seconds

    def _later(self, then: Done) -> None:
        self._clock.after(self._durations.between(), then)


class _Actor:
    """Works on one call after another. busy: seconds with a call."""

    def __init__(self, clock: _Clock, processor: Processor) -> None:
        self._clock = clock
        self._processor = processor
        self._waiting: list[tuple[Seconds, Done]] = []
        self._working = False
        self._new = True
        self.busy = 0.0

    def work(self, seconds: Seconds, then: Done) -> None:
        self._waiting.append((seconds, then))
        self._next()

    def _next(self) -> None:
        if self._working or not self._waiting:
            return
        self._working = True
        seconds, then = self._waiting.pop(0)
        began = self._clock.now

        def done() -> None:
            self.busy += self._clock.now - began
            self._working = False
            then()
            self._next()

        first, self._new = self._new, False
        self._processor.begin(self._clock, seconds(first), done)
