"""Restarts actors that die or stop answering, within a budget.

Owns the budget, the back-off and the record of every restart. Never blocks: the loops that wait for
actors call `attend` each time around. Calls in flight on a lost actor are handled in calls.py.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ray

from gfn_ray.config import RuntimeConfig
from gfn_ray.errors import RunFailed, UserError
from gfn_ray.formatting import count
from gfn_ray.replay.journal.write_ahead_log import DamagedReplay
from gfn_ray.runtime.supervision.failures import ActorLost, DataLost, value_of
from gfn_ray.runtime.supervision.worker import Worker

# Tries to load an actor for the first time: what kills that many is no accident.
FIRST_LOADS = 3
# Delay before the first restart of an actor, doubled with each consecutive one.
FIRST_DELAY_S = 1.0
LONGEST_DELAY_S = 60.0


@dataclass(frozen=True)
class Restart:
    """A completed restart. seconds: from noticing the loss until the actor could be called."""

    number: int
    actor: str
    cause: str
    seconds: float


@dataclass
class _Absence:
    """A worker being restarted. due: when to start it. waiting: calls that restore its state and
    must finish first; None until it has loaded."""

    worker: Worker
    cause: str
    lost_at: float
    due: float
    loading: Any = None
    waiting: list[Any] | None = None
    deadline: float = 0.0


class Supervisor:
    """observe: called with each message. record: called with each completed restart."""

    def __init__(
        self,
        config: RuntimeConfig,
        observe: Callable[[str], None],
        record: Callable[[Restart], None],
    ) -> None:
        self._config = config
        self.observe = observe
        self._record = record
        self._absent: list[_Absence] = []
        self._causes: list[tuple[str, str]] = []
        self.restarts: list[Restart] = []

    def lost(self, worker: Worker, generation: int, cause: str) -> None:
        """Replaces the actor unless a newer generation already runs. cause: a whole sentence.

        Raises RunFailed if the budget is spent.
        """
        if generation != worker.generation or worker.handle is None:
            return  # another call already reported it
        self.replace(worker, cause)

    def replace(self, worker: Worker, cause: str) -> None:
        """Ends an actor, loaded or not, and schedules a new one."""
        worker.end()
        self._expect_back(worker, cause, time.monotonic())

    def attend(self) -> None:
        """Starts actors that are due, and makes those callable whose state is restored."""
        for absence in list(self._absent):
            if absence.loading is None and time.monotonic() >= absence.due:
                absence.loading = absence.worker.start()
                absence.deadline = time.monotonic() + self._config.start_timeout_s
            if absence.loading is not None:
                self._see_to(absence)

    @property
    def references(self) -> list[Any]:
        """References that a waiting caller should watch for progress."""
        return [
            ref
            for absence in self._absent
            for ref in ([absence.loading] if absence.waiting is None else absence.waiting)
            if ref is not None
        ]

    def _expect_back(self, worker: Worker, cause: str, lost_at: float) -> None:
        self._causes.append((worker.name, cause))
        done, budget = len(self._causes), self._config.max_restarts
        if done > budget:
            raise RunFailed(self._account())
        if not worker.has_loaded and worker.failures_in_a_row + 1 >= FIRST_LOADS:
            raise RunFailed(f"{cause}; it failed to load {FIRST_LOADS} times")
        delay = min(LONGEST_DELAY_S, FIRST_DELAY_S * 2**worker.failures_in_a_row)
        worker.failures_in_a_row += 1
        self.observe(f"{cause}; restarting it in {delay:g} s ({done} of {budget} restarts)")
        self._absent.append(_Absence(worker, cause, lost_at, time.monotonic() + delay))

    def _see_to(self, absence: _Absence) -> None:
        worker = absence.worker
        try:
            if absence.waiting is None:
                if not _is_done(absence.loading):
                    self._check_deadline(absence, "load its model", "start_timeout_s")
                    return
                _has_loaded(absence.loading, worker)
                absence.waiting = worker.loaded()
                limit = self._config.call_timeout_s * max(1, worker.repeats)
                absence.deadline = time.monotonic() + limit
            while absence.waiting:
                if not _is_done(absence.waiting[0]):
                    self._check_deadline(absence, "restore its state", "call_timeout_s")
                    return
                value_of(absence.waiting.pop(0), worker.name, "restore its state")
        except ActorLost as again:
            self._absent.remove(absence)
            worker.end()
            self._expect_back(worker, str(again), absence.lost_at)
            return
        except DataLost as loss:
            raise loss.ends_the_run() from loss
        self._absent.remove(absence)
        worker.up()
        back = Restart(
            len(self.restarts) + 1,
            worker.name,
            absence.cause,
            time.monotonic() - absence.lost_at,
        )
        self.restarts.append(back)
        self.observe(f"{worker.name} is back after {back.seconds:.1f} s")
        self._record(back)

    def _check_deadline(self, absence: _Absence, what: str, setting: str) -> None:
        if time.monotonic() > absence.deadline:
            raise ActorLost(late(absence.worker.name, what, self._config, setting))

    def _account(self) -> str:
        """Why there is no further restart, with the causes of all earlier ones."""
        _, cause = self._causes[-1]
        budget = self._config.max_restarts
        if not budget:
            return f"{cause}; restarts are off (runtime.max_restarts is 0)"
        before = "; ".join(earlier for _, earlier in self._causes[:-1])
        return (
            f"{cause}; {count(budget, 'restart')} allowed by runtime.max_restarts had been spent "
            f"before: {before}"
        )


def late(actor: str, what: str, config: RuntimeConfig, setting: str) -> str:
    """The message for an actor that missed a deadline."""
    limit = getattr(config, setting)
    return (
        f"{actor} did not {what} within {limit:g} s (if it is only slow, raise runtime.{setting})"
    )


def _has_loaded(loading: Any, worker: Worker) -> None:
    """Checks that an actor has loaded. If a predecessor loaded under the same settings, a failure
    is worth a retry: the cause, such as memory or a lock still held by the dead, may pass."""
    try:
        value_of(loading, worker.name, "load its model")
    except DamagedReplay:
        raise
    except (UserError, DataLost, RunFailed) as error:
        if not worker.has_loaded:
            raise
        raise ActorLost(f"{worker.name} could not load again: {error}") from error


def _is_done(ref: Any) -> bool:
    return bool(ray.wait([ref], timeout=0)[0])
