"""Decides what may start next: a sampling call, an update, a publication.

Owns the update count and the two bounds between samplers and learner, samples per insert and
staleness. Independent of Ray and never blocks: callers ask before they start work and report its
outcome.
"""

from __future__ import annotations

from typing import Any

from gfn_ray.config import JobConfig
from gfn_ray.errors import RunFailed
from gfn_ray.replay.rate_limiter import limiter_for
from gfn_ray.runtime.training.staleness import StalenessGate

# Consecutive draws without an eligible query, each after a new insert, before the run fails.
EMPTY_DRAWS_LIMIT = 30


class Pacing:
    """step: number of updates applied."""

    def __init__(self, config: JobConfig) -> None:
        self._config = config
        self._per_call = config.sampler.queries_per_call * config.sampler.trajectories_per_query
        self._batch = config.learner.queries_per_step * config.learner.trajectories_per_query
        self._limiter = limiter_for(config)
        self._gate = StalenessGate(config.max_staleness)
        self._updating = self._has_batch = False
        self._starved = False
        self._empty_draws = 0
        self.step = 0
        self._last_step = self._pause_at = config.steps

    @property
    def version(self) -> int:
        """Newest version that samplers may use."""
        return self._gate.version

    @property
    def largest_staleness(self) -> int:
        """Largest staleness, in versions, of any trajectory when it reached replay."""
        return self._gate.largest_seen

    @property
    def publishing(self) -> bool:
        """Whether a new version is being made."""
        return self._gate.publishing

    # Pausing

    def go_on(self, until: int | None) -> None:
        """Allows updates up to `until`, or to the last one."""
        self._pause_at = self._last_step if until is None else min(until, self._last_step)

    @property
    def pauses(self) -> bool:
        """Whether the pause is reached and the newest weights are published."""
        return self.step >= self._pause_at and not self._gate.publishing

    def end_here(self) -> None:
        """Allows no further update."""
        self._last_step = self._pause_at = self.step

    # Sampling calls

    def may_sample(self) -> bool:
        """Whether one more sampling call may start."""
        updates = self._pause_at - self.step - self._has_batch  # still to draw a batch
        if updates <= 0 or self._limiter.pays_for(updates, self._batch):
            return False
        return self._gate.may_sample() and self._limiter.may_insert(self._per_call)

    def sampling(self) -> int:
        """Records the start of a call; returns the version it samples from."""
        self._limiter.promise(self._per_call)
        self._gate.sampling(self._gate.version)
        return self._gate.version

    def stored(self, version: int, trajectories: int) -> None:
        """Records that a call's trajectories, duplicates included, are in replay."""
        self._starved = False
        self._limiter.arrived(promised=self._per_call, inserted=trajectories)
        self._gate.arrived(version)

    def stored_unasked(self, trajectories: int) -> None:
        """Records trajectories in replay that no sampler made."""
        self._starved = False
        self._limiter.arrived(promised=0, inserted=trajectories)

    def gave_up(self, version: int) -> None:
        """Records that a call will deliver nothing."""
        self._limiter.lost(self._per_call)
        self._gate.gave_up(version)

    # Updates

    def may_update(self) -> bool:
        """Whether the learner may draw a batch."""
        if self._updating or self._starved or self.step >= self._pause_at:
            return False
        return self._limiter.may_sample(self._batch) and self._gate.may_update(self._publishes())

    def updating(self) -> bool:
        """Records the start of an update; returns whether its weights will be published."""
        self._updating = True
        publishes = self._publishes()
        if publishes:
            self._gate.will_publish()  # from here on, samplers would start one version behind
        return publishes

    def drew(self, trajectories: int) -> None:
        """Records that the update has its batch."""
        self._has_batch = True
        self._empty_draws = 0
        self._limiter.took(trajectories)

    def found_nothing(self, stored: int) -> None:
        """Records that no query in replay had two eligible trajectories: the update waits for the
        next insert. stored: trajectories in replay. Raises RunFailed after too many such draws."""
        self._empty_draws += 1
        if self._empty_draws > EMPTY_DRAWS_LIMIT:
            raise RunFailed(
                f"{self._empty_draws} draws from replay in a row found no query with two eligible "
                f"trajectories ({stored} are stored); raise replay.max_staleness or "
                "replay.max_times_sampled, lower replay.edit_distance, or, if the policy "
                "repeats one z, raise the sampler's exploration"
            )
        # Forfeit what is paid for, so that samplers are asked for something new.
        while self._limiter.may_sample(self._batch):
            self._limiter.gave_up(self._batch)
        self.cancelled()
        self._starved = True

    def cancelled(self) -> None:
        """Records that the update does not take place."""
        self._gate.publication_cancelled()
        self._updating = self._has_batch = False

    def updated(self) -> None:
        """Records that the update is applied."""
        self.step += 1
        self._has_batch = False

    def finished(self) -> None:
        """Records that the update is complete: the next may start."""
        self._updating = False

    def will_publish(self) -> None:
        self._gate.will_publish()

    def published(self, version: int) -> None:
        self._gate.published(version)

    def _publishes(self) -> bool:
        following = self.step + 1
        return (
            following % self._config.learner.publish_every == 0
            or following % self._config.checkpoint.every == 0  # it must hold this step's weights
            or following == self._pause_at
        )

    # Checkpoints

    def state(self) -> dict[str, Any]:
        """Leaves out promised inserts: calls in flight do not survive a restart."""
        return {
            "step": self.step,
            "largest_staleness": self._gate.largest_seen,
            "limiter": self._limiter.state(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        self.step = state["step"]
        self._gate.largest_seen = state["largest_staleness"]
        self._limiter.restore(state["limiter"])

    def start_anew(self) -> None:
        """Resets the rate limiter after replay was emptied."""
        self._limiter = limiter_for(self._config)
