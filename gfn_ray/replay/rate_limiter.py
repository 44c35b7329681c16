"""Couples the pace of sampling and learning by the samples-per-insert ratio.

Owns four counters and the checks made before work starts. Never blocks or wakes anyone; the
controller asks again when a counter has changed.

Counts trajectories as samplers made them: a duplicate that takes no slot in replay counts as
inserted, because it was sampled and paid for.
"""

from __future__ import annotations

from gfn_ray.config import JobConfig


class RateLimiter:
    """Keeps trajectories learned from and trajectories sampled in step.

    min_replay: trajectories inserted before the first update.
    samples_per_insert: trajectories learned from per trajectory inserted, in the long run.
    slack: trajectories that samplers may be ahead of the learner; also the largest batch.

    Two guarantees. The ratio: sampled <= samples_per_insert * inserted, plus at most one
    batch. No deadlock: while nothing is promised, a batch may be taken or any number of
    trajectories may be promised.
    """

    def __init__(self, min_replay: int, samples_per_insert: float, slack: int) -> None:
        if min_replay < 1 or samples_per_insert <= 0 or slack < 1:
            raise ValueError(
                "need min_replay >= 1, samples_per_insert > 0 and slack >= 1; "
                f"got {min_replay}, {samples_per_insert}, {slack}"
            )
        self._min_replay = min_replay
        self._ratio = samples_per_insert
        self._slack = slack
        self.promised = 0
        self.inserted = 0
        self.sampled = 0
        self.unfilled = 0

    @property
    def used(self) -> int:
        """Trajectories that the learner has taken or forfeited."""
        return self.sampled + self.unfilled

    def may_sample(self, n: int) -> bool:
        """Whether the learner may take a batch of n trajectories now."""
        if n > self._slack:
            raise ValueError(
                f"a batch of {n} trajectories exceeds the slack of {self._slack}, so samplers "
                "would stop before it is paid for; raise the slack or learn from fewer"
            )
        return self._pays_for(n, self.inserted)

    def may_insert(self, n: int) -> bool:
        """Whether samplers may be asked for n more trajectories.

        Either they stay within the slack beyond what the learner has used, or inserts, done and
        promised, do not yet pay for the next batch. The second bound is checked before a call
        starts and may then be exceeded, because group sizes need not divide it.
        """
        ahead = self.inserted + self.promised
        if not self._pays_for(self._slack, ahead):
            return True
        return self._ratio * (ahead + n - self._slack) <= self.used

    def pays_for(self, batches: int, n: int) -> bool:
        """Whether inserts, done and promised, pay for that many more batches of n, the last ones of
        a run: anything sampled beyond them would never be used."""
        return self._pays_for(n, self.inserted + self.promised, before=(batches - 1) * n)

    def promise(self, n: int) -> None:
        """Records that samplers were asked for n trajectories."""
        self.promised += n

    def arrived(self, *, promised: int, inserted: int) -> None:
        """Records that `promised` are settled, and `inserted` reached replay, with duplicates.

        Trajectories that no sampler was asked for, such as demonstrations, have promised=0.
        """
        self._settle(promised)
        self.inserted += inserted

    def lost(self, n: int) -> None:
        """Records that n promised trajectories will never arrive."""
        self._settle(n)

    def took(self, n: int) -> None:
        """Records that the learner took a batch of n trajectories."""
        self.sampled += n

    def gave_up(self, n: int) -> None:
        """Records that a batch of n was allowed, but replay had no eligible trajectories for it.

        It counts as used but not as sampled, so that samplers continue to bring something new and
        the learner waits for it.
        """
        self.unfilled += n

    def state(self) -> dict[str, int]:
        """The counters, without promises, which do not survive a restart."""
        return {"inserted": self.inserted, "sampled": self.sampled, "unfilled": self.unfilled}

    def restore(self, state: dict[str, int]) -> None:
        """Restores the counters from state(), with nothing promised."""
        self.inserted, self.sampled = state["inserted"], state["sampled"]
        self.unfilled = state["unfilled"]

    def _pays_for(self, n: int, inserted: int, before: int = 0) -> bool:
        """Whether `inserted` trajectories allow a batch of n. before: others taken before it.

        used + before + n <= ratio * inserted + max(0, n - ratio * min_replay). The last term lets
        the first update run at min_replay even if the ratio alone asks for more inserts; it is the
        overdraft of at most one batch. Written with min, so that despite rounding, what pays for a
        batch also pays for a smaller one.
        """
        charge = min(n, self._ratio * self._min_replay)
        return (
            inserted >= self._min_replay and self.used + before + charge <= self._ratio * inserted
        )

    def _settle(self, n: int) -> None:
        if not 0 <= n <= self.promised:
            raise ValueError(f"{n} trajectories to settle, but {self.promised} were promised")
        self.promised -= n


def limiter_for(config: JobConfig) -> RateLimiter:
    """Makes the limiter for a run's settings, before any insert."""
    sampler, learner = config.sampler, config.learner
    batch = learner.queries_per_step * learner.trajectories_per_query
    call = sampler.queries_per_call * sampler.trajectories_per_query
    return RateLimiter(
        config.replay.min_replay,
        config.replay.samples_per_insert,
        # Each sampler, or each reward actor if those are more, may have one call in flight while
        # its previous one is learned from.
        slack=max(batch, 2 * max(config.samplers, config.reward_actors) * call),
    )
