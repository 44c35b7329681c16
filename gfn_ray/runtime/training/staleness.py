"""The bound on staleness: how many versions behind a trajectory may be when it arrives."""

from __future__ import annotations

from collections import Counter


class StalenessGate:
    """Keeps (version published when a trajectory reaches replay) - (its own) within a limit.

    Two checks before work starts enforce it. A sampler may not start if the learner is about to
    publish too far ahead; the learner may not start a publishing update that would leave samples
    in flight too far behind. A limit of 0 makes the loop synchronous.
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
        """Whether an update may start. publishes: whether a new version follows it."""
        if not publishes or not self._in_flight:
            return True
        return self.version + 1 - min(self._in_flight) <= self._limit

    def sampling(self, version: int) -> None:
        """Records the start of a sampling call under this version."""
        self._in_flight[version] += 1

    def arrived(self, version: int) -> None:
        """Records that the call's trajectories are in replay."""
        self._settle(version)
        self.largest_seen = max(self.largest_seen, self.version - version)

    def _settle(self, version: int) -> None:
        if self._in_flight[version] < 1:
            raise ValueError(f"no sampling call of version {version} is in flight")
        self._in_flight[version] -= 1
        if not self._in_flight[version]:
            del self._in_flight[version]

    def gave_up(self, version: int) -> None:
        """Records that the call will deliver nothing."""
        self._settle(version)

    def will_publish(self) -> None:
        """Records the start of an update that publishes a new version."""
        self.publishing = True

    def publication_cancelled(self) -> None:
        """Records that the update did not take place."""
        self.publishing = False

    def published(self, version: int) -> None:
        """Records that a new version can be sampled from."""
        if version <= self.version:
            raise ValueError(f"version {version} was published after {self.version}")
        self.version = version
        self.publishing = False
