"""The pace of sampling and learning, held together by the samples-per-insert ratio.

Owns four counters and the questions asked before work is handed out. Waits for
nothing and wakes nobody; the controller asks again when a counter has moved.

Counted are trajectories as samplers made them: a duplicate that takes no slot in replay
counts as inserted, for it was sampled and paid for.
"""

from __future__ import annotations

from gfn_ray.config import JobConfig


class RateLimiter:
    """Keeps trajectories learned from and trajectories sampled in step.

    min_replay: trajectories inserted before the first update.
    samples_per_insert: trajectories learned from per trajectory inserted, in the long run.
    slack: trajectories that samplers may run ahead of the learner, and the largest batch.

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
        """Trajectories' worth of learning that inserts have paid for: taken, or given up."""
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

        Either they stay within the slack beyond what the learner has used, or what is
        inserted and promised does not yet pay for the next batch. The second bound is a
        threshold to start below, not to stay below: group sizes need not divide it.
        """
        ahead = self.inserted + self.promised
        if not self._pays_for(self._slack, ahead):
            return True
        return self._ratio * (ahead + n - self._slack) <= self.used

    def pays_for(self, batches: int, n: int) -> bool:
        """Whether what is inserted and promised is enough for that many more batches of n, the
        last ones of a run: whatever were sampled beyond it, nobody would learn from."""
        return self._pays_for(n, self.inserted + self.promised, before=(batches - 1) * n)

    def promise(self, n: int) -> None:
        """Samplers were asked for n trajectories."""
        self.promised += n

    def arrived(self, *, promised: int, inserted: int) -> None:
        """Of those, `promised` are settled, and `inserted` reached replay, duplicates included.

        Trajectories that nobody was asked for, such as seeds, come with promised=0.
        """
        self._settle(promised)
        self.inserted += inserted

    def lost(self, n: int) -> None:
        """Of those, n will never arrive: their sampler or reward actor died."""
        self._settle(n)

    def took(self, n: int) -> None:
        """The learner took a batch of n trajectories."""
        self.sampled += n

    def gave_up(self, n: int) -> None:
        """A batch of n was allowed, but replay had nothing eligible to fill it with.

        It counts as used, though not as sampled: samplers must go on to bring something
        new, and the learner must wait for it.
        """
        self.unfilled += n

    def state(self) -> dict[str, int]:
        """The counters, without what is promised: nobody will keep it after a restart."""
        return {"inserted": self.inserted, "sampled": self.sampled, "unfilled": self.unfilled}

    def restore(self, state: dict[str, int]) -> None:
        """The counters that state() gave, with nothing promised."""
        self.inserted, self.sampled = state["inserted"], state["sampled"]
        self.unfilled = state["unfilled"]

    def _pays_for(self, n: int, inserted: int, before: int = 0) -> bool:
        """Whether so many inserts allow a batch of n; before: trajectories taken until then.

        used + before + n <= ratio * inserted + max(0, n - ratio * min_replay). The last term lets
        the first update run at min_replay even where the ratio alone would ask for more
        inserts than that; it is the overdraft of at most one batch. Written with min, so
        that with rounding too, what pays for a batch pays for a smaller one.
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
    """The limiter of a run's settings, before anything is inserted."""
    sampler, learner = config.sampler, config.learner
    batch = learner.queries_per_step * learner.trajectories_per_query
    call = sampler.queries_per_call * sampler.trajectories_per_query
    return RateLimiter(
        config.replay.min_replay,
        config.replay.samples_per_insert,
        # Each sampler may have one call under way while the one before is learned from.
        slack=max(batch, 2 * config.samplers * call),
    )
