"""Decides which sampler takes which batch of an evaluation, and when.

Bounds the number of batches in flight. A call's time limit starts when the call is made, so a queue
of batches in front of an actor would look like an actor that hangs.
"""

from __future__ import annotations

from collections import deque


class Turns:
    """Batches 0..batches-1 in order, each sampled once, and again if it is lost.

    most: largest number of batches in flight, from sampling to the end of measurement.
    """

    def __init__(self, batches: int, samplers: int, most: int) -> None:
        self._waiting = deque(range(batches))
        self._idle = deque(range(samplers))
        self._most = most
        self._under_way: set[int] = set()

    def next(self) -> tuple[int, int] | None:
        """Returns an idle sampler and its next batch; None if nothing may start now."""
        if not (self._idle and self._waiting) or len(self._under_way) >= self._most:
            return None
        batch = self._waiting.popleft()
        self._under_way.add(batch)
        return self._idle.popleft(), batch

    def sampled(self, sampler: int) -> None:
        """Records that this sampler is idle again."""
        self._idle.append(sampler)

    def lost(self, batch: int) -> None:
        """Records that this batch must be sampled again; it is next."""
        self._under_way.remove(batch)
        self._waiting.appendleft(batch)

    def measured(self, batch: int) -> None:
        """Records that this batch is complete."""
        self._under_way.remove(batch)
