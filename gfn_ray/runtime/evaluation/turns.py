"""Which sampler takes which batch of an evaluation, and when.

Owns the bound on batches under way. A call's time limit counts from the moment it is made, so that
batches which pile up before an actor would be taken for one that hangs.
"""

from __future__ import annotations

from collections import deque


class Turns:
    """Batches 0..batches-1 in order, each sampled once.

    most: batches that may be under way, from their sampling to the end of their measurement.
    """

    def __init__(self, batches: int, samplers: int, most: int) -> None:
        self._waiting = deque(range(batches))
        self._idle = deque(range(samplers))
        self._most = most
        self._under_way: set[int] = set()

    def next(self) -> tuple[int, int] | None:
        """A sampler that is idle and the batch that is now its own; None: not now."""
        if not (self._idle and self._waiting) or len(self._under_way) >= self._most:
            return None
        batch = self._waiting.popleft()
        self._under_way.add(batch)
        return self._idle.popleft(), batch

    def sampled(self, sampler: int) -> None:
        """This sampler has done what it was given."""
        self._idle.append(sampler)

    def measured(self, batch: int) -> None:
        """Nothing is left to be done with this batch."""
        self._under_way.remove(batch)
