"""Both ends of a call log its times: the controller in a CallLog, the actor in its own log.

Both sides know Ray's id of the call, so that no extra data travels with it. An actor's log is
fetched once, at the end; it is lost if the actor dies.
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

# Calls that an actor remembers; there are a few hundred per minute.
_LONGEST_LOG = 100_000


class CallLog:
    """The calls this process made, and when it waited for them. Times are monotonic."""

    def __init__(self) -> None:
        self.calls: list[Sent] = []
        self.waits: list[Interval] = []
        self._closed = False

    def sent(self, actor: str, what: str, ref: Any, at: float) -> Sent:
        """Logs a call; the caller notes the answer in the result. at: the time before the call was
        made, because the actor may be quick."""
        one = Sent(ref.task_id().hex(), actor, what, at)
        if not self._closed:
            self.calls.append(one)
        return one

    def waited(self, began: float) -> None:
        """Logs a wait that ends now."""
        if not self._closed:
            self.waits.append((began, time.monotonic()))

    def begin_anew(self) -> None:
        """Drops finished calls."""
        self.calls = [one for one in self.calls if one.taken is None]
        self.waits.clear()

    def close(self) -> None:
        """Stops logging."""
        self._closed = True


def machine() -> str:
    """An id that two processes share only if they share their monotonic clock."""
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


def timed(kind: type) -> type:
    """Returns a subclass of the actor that logs each call of a public method."""
    methods = {
        name: _timed(method)
        for name, method in inspect.getmembers(kind, inspect.isfunction)
        if not name.startswith("_")
    }
    # Keep the class name, which also names the process.
    return type(kind.__name__, (_Timed, kind), methods)


class _Timed:
    """The methods that `timed` adds."""

    _works: deque[Work] | None = None

    def works(self) -> tuple[str, list[Work]]:
        """Returns the clock's id and every call so far."""
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
