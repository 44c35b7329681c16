"""Both ends of a call write down when they had it: the controller in a CallLog, the actor itself.

Ray's id of the call is on both sides, so that nothing has to travel with a call. An actor's log
is fetched once, at the end; one that died took its own with it.
"""

from __future__ import annotations

import inspect
import time
from collections import deque
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import ray

from gfn_ray.runtime.profiling.spans import Interval, Sent, Work

# Calls that an actor remembers: a minute has some hundreds of them.
_LONGEST_LOG = 100_000


class CallLog:
    """What this process asked of actors, and when it waited for them. Times are monotonic."""

    def __init__(self) -> None:
        self.calls: list[Sent] = []
        self.waits: list[Interval] = []
        self._closed = False

    def sent(self, actor: str, what: str, ref: Any, at: float) -> Sent:
        """at: before the call was made, since the actor may be quick. The result belongs to the
        caller, who notes the answer there."""
        one = Sent(ref.task_id().hex(), actor, what, at)
        if not self._closed:
            self.calls.append(one)
        return one

    def waited(self, began: float) -> None:
        """For any of them, until now."""
        if not self._closed:
            self.waits.append((began, time.monotonic()))

    def begin_anew(self) -> None:
        """Forgets what is over."""
        self.calls = [one for one in self.calls if one.taken is None]
        self.waits.clear()

    def close(self) -> None:
        """Takes no further call."""
        self._closed = True


def machine() -> str:
    """The same for two processes only where their monotonic clocks are the same one."""
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


def timed(kind: type) -> type:
    """The same actor, which writes down each call of a public method."""
    methods = {
        name: _timed(method)
        for name, method in inspect.getmembers(kind, inspect.isfunction)
        if not name.startswith("_")
    }
    # By its own name, which is that of the process, too.
    return type(kind.__name__, (_Timed, kind), methods)


class _Timed:
    """What `timed` adds."""

    _works: deque[Work] | None = None

    def works(self) -> tuple[str, list[Work]]:
        """Which clock, and every call so far."""
        return machine(), list(self._works or ())


def _timed(method: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(method)
    def logged(self: Any, *arguments: Any, **named: Any) -> Any:
        began, cpu = time.monotonic(), time.process_time()
        try:
            return method(self, *arguments, **named)
        finally:
            ended, cpu = time.monotonic(), time.process_time() - cpu
            call = ray.get_runtime_context().get_task_id()
            if self._works is None:
                self._works = deque(maxlen=_LONGEST_LOG)
            self._works.append(Work(call, method.__name__, began, ended, cpu))

    return logged
