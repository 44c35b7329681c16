"""Wall time of a run, and busy seconds of a stage."""

from __future__ import annotations

import time
from dataclasses import dataclass


class Stopwatch:
    """Total seconds between start and stop, including those before a run was resumed."""

    def __init__(self) -> None:
        self._before = 0.0
        self._started: float | None = None

    def start(self) -> None:
        self._started = time.monotonic()

    def stop(self) -> None:
        self._before, self._started = self.seconds, None

    def add(self, seconds: float) -> None:
        """Adds time measured by another process."""
        self._before += seconds

    @property
    def seconds(self) -> float:
        """Seconds so far; the stopwatch may still be running."""
        return self._before + (0.0 if self._started is None else time.monotonic() - self._started)


@dataclass
class StageMeter:
    """Tokens and busy seconds of one stage."""

    tokens: float = 0.0
    seconds: float = 0.0

    def add(self, tokens: float, seconds: float) -> None:
        self.tokens += tokens
        self.seconds += seconds

    @property
    def rate(self) -> float:
        """Tokens per busy second."""
        return self.tokens / self.seconds if self.seconds else 0.0
