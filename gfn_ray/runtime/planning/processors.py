"""What calls run on: a device of their own, or cores that actors share."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from itertools import count
from typing import Protocol


class Clock(Protocol):
    now: float

    def after(self, seconds: float, then: Callable[[], None]) -> None: ...


class Processor(Protocol):
    def begin(self, clock: Clock, seconds: float, done: Callable[[], None]) -> None:
        """Starts work that takes so many seconds alone, and calls `done` when it is finished."""
        ...


class OwnDevice:
    """A device, or a share of one that others do not slow down."""

    def begin(self, clock: Clock, seconds: float, done: Callable[[], None]) -> None:
        clock.after(seconds, done)


class SharedCores:
    """Cores of one machine; every call uses one thread, and all get the same share.

    Keeps the seconds that each call has had in one number: since the start, a call that never
    ended would have had `_had`. One that began later ends once that has grown by its own seconds.
    """

    def __init__(self, cores: float) -> None:
        self._cores = cores
        self._had = 0.0
        self._seen = 0.0
        self._ends: list[tuple[float, int, Callable[[], None]]] = []
        self._number = count()
        self._plan = 0

    def begin(self, clock: Clock, seconds: float, done: Callable[[], None]) -> None:
        self._catch_up(clock)
        heapq.heappush(self._ends, (self._had + seconds, next(self._number), done))
        self._look_again(clock)

    @property
    def _speed(self) -> float:
        return min(1.0, self._cores / len(self._ends)) if self._ends else 1.0

    def _catch_up(self, clock: Clock) -> None:
        self._had += (clock.now - self._seen) * self._speed
        self._seen = clock.now

    def _look_again(self, clock: Clock) -> None:
        """Waits for the call that ends first, at today's speed; an earlier plan is void."""
        self._plan += 1
        plan = self._plan
        if self._ends:
            left = max(0.0, self._ends[0][0] - self._had) / self._speed
            clock.after(left, lambda: self._due(clock, plan))

    def _due(self, clock: Clock, plan: int) -> None:
        if plan != self._plan:
            return
        self._catch_up(clock)
        _, _, done = heapq.heappop(self._ends)
        self._look_again(clock)
        done()
