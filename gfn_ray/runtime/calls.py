"""Remote calls under way: every one has an owner, a deadline and a handler.

Owns the only place where this process waits for actors, and the sentences said when one
dies or is late. A plain class over Ray's object references.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import (
    ActorDiedError,
    ActorUnavailableError,
    ObjectLostError,
    OutOfMemoryError,
    RayError,
    RayTaskError,
    WorkerCrashedError,
)

from gfn_ray.errors import RunFailed, UserError

# How long one poll may last; bounds how late an interrupt or a deadline is noticed.
POLL_SECONDS = 0.5

_DEATHS = (
    ActorDiedError,
    ActorUnavailableError,
    WorkerCrashedError,
    ObjectLostError,
    OutOfMemoryError,
)


@dataclass
class _Call:
    actor: str
    what: str
    deadline: float
    then: Callable[[Any], None]


class PendingCalls:
    """Calls whose small result this process reads, each followed by its handler."""

    def __init__(self, limit: float, setting: str) -> None:
        self._limit = limit
        self._setting = setting
        self._calls: dict[Any, _Call] = {}

    def add(self, ref: Any, actor: str, what: str, then: Callable[[Any], None]) -> None:
        """Watches `ref`; `then` gets its value. actor and what name the call in errors."""
        deadline = time.monotonic() + self._limit
        self._calls[ref] = _Call(actor, what, deadline, then)

    def run_ready(self) -> None:
        """Waits briefly for any call, then runs the handlers of those that are done."""
        if not self._calls:
            raise RunFailed(
                "nothing is under way and nothing may start: the rate limiter and the lag gate "
                "wait for each other, which is a fault of gfn_ray; please report the settings"
            )
        done, _ = ray.wait(list(self._calls), num_returns=1, timeout=POLL_SECONDS)
        for ref in done:
            call = self._calls.pop(ref)
            call.then(fetch(ref, call.actor, call.what, self._limit, self._setting))
        now = time.monotonic()
        for call in self._calls.values():
            if now > call.deadline:
                raise _late(call.actor, call.what, self._limit, self._setting)

    def run_all(self) -> None:
        """Runs until every call, and every call its handler adds, is done."""
        while self._calls:
            self.run_ready()

    def allow(self, seconds: float) -> None:
        """Gives every call under way more time: nobody was looking for this long."""
        for call in self._calls.values():
            call.deadline += seconds

    def forget(self) -> None:
        """Stops watching every call; their results are dropped."""
        self._calls.clear()


def fetch(ref: Any, actor: str, what: str, limit: float, setting: str) -> Any:
    """The value of a call, or RunFailed naming the actor and the setting that bounds the wait."""
    try:
        return ray.get(ref, timeout=limit)
    except ray.exceptions.GetTimeoutError:
        raise _late(actor, what, limit, setting) from None
    except RayTaskError as error:
        cause = error.cause if isinstance(error.cause, Exception) else error
        if isinstance(cause, UserError):
            raise UserError(str(cause)) from None
        if isinstance(cause, _DEATHS):
            raise RunFailed(f"an actor that {actor} needs died while it had to {what}") from error
        raise RunFailed(f"{actor} failed to {what}: {type(cause).__name__}: {cause}") from error
    except _DEATHS as error:
        raise RunFailed(f"{actor} died while it had to {what}: {_cause(error)}") from error
    except RayError as error:  # a full disk or object store, a node or a placement that is gone
        raise RunFailed(f"Ray could not let {actor} {what}: {_cause(error)}") from error


def _late(actor: str, what: str, limit: float, setting: str) -> RunFailed:
    return RunFailed(
        f"{actor} did not {what} within {limit:g} s; if it is only slow, raise {setting}"
    )


def _cause(error: Exception) -> str:
    """Ray's account of a death in one line; it runs to dozens."""
    text = str(error)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if "creation task" in text and lines:
        return lines[-1]  # the last line of the constructor's traceback
    for line in lines:
        if "exit detail" in line or "killed by" in line:
            return line
    return lines[0] if lines else type(error).__name__
