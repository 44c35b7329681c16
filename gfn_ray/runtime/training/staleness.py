"""The bound on staleness: how many versions a trajectory may be behind on arrival."""

from __future__ import annotations

from collections import Counter


class StalenessGate:
    """Keeps (version published when a trajectory reaches replay) - (its own) within a limit.

    Two questions keep it, asked before work is handed out: may a sampler start, given
    that the learner may be about to publish, and may the learner start an update that
    will publish, given what is still on its way. A limit of 0 makes the loop synchronous.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._in_flight: Counter[int] = Counter()
        self.publishing = False
        self.version = -1
        self.largest_seen = 0

    def may_sample(self) -> bool:
        return int(self.publishing) <= self._limit

    def may_update(self, publishes: bool) -> bool:
        """Whether an update may start; `publishes` says that a new version follows it."""
        if not publishes or not self._in_flight:
            return True
        return self.version + 1 - min(self._in_flight) <= self._limit

    def sampling(self, version: int) -> None:
        """A group was asked for under this version."""
        self._in_flight[version] += 1

    def arrived(self, version: int) -> None:
        """That group is in replay."""
        self._settle(version)
        self.largest_seen = max(self.largest_seen, self.version - version)

    def _settle(self, version: int) -> None:
        if self._in_flight[version] < 1:
            raise ValueError(f"no group of version {version} is on its way")
        self._in_flight[version] -= 1
        if not self._in_flight[version]:
            del self._in_flight[version]

    def gave_up(self, version: int) -> None:
        """That group will never be in replay."""
        self._settle(version)

    def will_publish(self) -> None:
        """An update that ends in a new version has started."""
        self.publishing = True

    def publication_cancelled(self) -> None:
        """That update did not take place after all."""
        self.publishing = False

    def published(self, version: int) -> None:
        """A new version can be sampled from."""
        if version <= self.version:
            raise ValueError(f"version {version} was published after {self.version}")
        self.version = version
        self.publishing = False
