"""Wall time that survives the process: what was measured before a run was resumed counts too."""

from __future__ import annotations

import time


class Stopwatch:
    """Seconds between start and stop, added up."""

    def __init__(self) -> None:
        self._before = 0.0
        self._started: float | None = None

    def start(self) -> None:
        self._started = time.monotonic()

    def stop(self) -> None:
        self._before, self._started = self.seconds, None

    def add(self, seconds: float) -> None:
        """Time that another process measured."""
        self._before += seconds

    @property
    def seconds(self) -> float:
        """So far; it may run on."""
        return self._before + (0.0 if self._started is None else time.monotonic() - self._started)
