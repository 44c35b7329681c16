"""Which of several equal actors gets the next call: the least busy one with room for it."""

from __future__ import annotations


class LeastBusy:
    """actors: how many there are. at_once: calls that one may have, done or waiting; None: any."""

    def __init__(self, actors: int, at_once: int | None = None) -> None:
        self._load = [0] * actors
        self._at_once = at_once

    def take(self) -> int | None:
        """Gives a call to an actor and returns its index; None if all have what they may have."""
        load = min(self._load)
        if load == self._at_once:
            return None
        index = self._load.index(load)
        self._load[index] += 1
        return index

    def done(self, index: int) -> None:
        """Records that a call of this actor has ended."""
        self._load[index] -= 1


# Calls at a sampler: one that it works on, and one that waits there with its weights, so that the
# engine does not idle while the first one's outcome is read and another call is made.
CALLS_AT_A_SAMPLER = 2


def samplers(number: int, max_staleness: int) -> LeastBusy:
    """A synchronous run has one call a sampler, in the same order each time."""
    return LeastBusy(number, CALLS_AT_A_SAMPLER if max_staleness else 1)
