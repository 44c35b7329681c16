"""A reward function that was given as a Python object, called in the process it was sent to."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from gfn_ray.rewards.functions.calling import Arguments, Faults, Rewards, call


class GivenFunction:
    """A callable with TRL's signature, and a time limit a batch.

    Ray sends it to the reward actors by value, so it may stand in a notebook. The limit is an alarm
    signal: Python code heeds it, C code that does not return is left to runtime.call_timeout_s.
    """

    def __init__(self, function: Callable[..., Any], timeout_s: float) -> None:
        self.name = getattr(function, "__name__", type(function).__name__)
        self.function = function
        self._timeout_s = timeout_s

    def __call__(self, arguments: Arguments) -> tuple[Rewards, Faults]:
        """As `calling.call`; where it is late, every row has that fault."""
        try:
            with _alarm(self._timeout_s):
                return call(self.function, arguments)
        except _Late:
            rows = len(arguments["completions"])
            late = f"it took more than task.reward_timeout_s ({self._timeout_s:g} s) over a batch"
            return [None] * rows, dict.fromkeys(range(rows), late)


class _Late(BaseException):
    """No Exception: the function may catch those."""


@contextmanager
def _alarm(seconds: float) -> Iterator[None]:
    """Raises _Late within it once the time is over; Python delivers signals to the main thread
    alone."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def ring(*_: object) -> None:
        raise _Late

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
